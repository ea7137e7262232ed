"""Credit for work that nobody did: a prompt whose keys and values are cached already, tasks that one asks oneself."""

from primitives.task import Kind, ModelCost, Status
from tests.attacks.fleet import PROMPT, Fleet
from vm.system import abi, views

LONG = PROMPT * 10


def cost_of(fleet: Fleet) -> ModelCost:
    shape = fleet.chain.model.manifest.cost
    return ModelCost(shape.a, shape.b, shape.c, 1, 4)


def credited(fleet: Fleet, task: bytes) -> int:
    """Multiply-adds that the epoch counts for the task's executor so far, the task being its only one."""
    chain = fleet.chain
    (settled,) = [event for _, event in chain.events(abi.TASK_SETTLED) if event["task"] == task]
    operator = bytes.fromhex(settled["executor"][2:])
    view = views.operator(chain.reader, operator, chain.params, chain.height + 1)
    assert view is not None
    return view.executed


def test_a_long_prompt_that_is_cached_already_earns_no_more_than_what_was_generated() -> None:
    """Whoever asks itself the same eighty tokens again and again computes one position each time."""
    fleet = Fleet(epoch_blocks=128)
    cost, task = cost_of(fleet), fleet.post(max_tokens=1, prompt=LONG)
    assert fleet.until(task, Status.SETTLED)
    whole = cost.execution(Kind.GENERATE, len(LONG), 1)
    new = cost.decode(Kind.GENERATE, len(LONG), 1)
    assert credited(fleet, task) == 2 * new < whole // 20
    (settled,) = [event for _, event in fleet.chain.events(abi.TASK_SETTLED)]
    assert settled["macs"] == whole, "it is paid for all the same: that burns a fifth of it"
    assert settled["burnedWei"] * 5 >= settled["fee"]


def test_asking_oneself_costs_what_is_burned() -> None:
    """The asker, the executor, its backups and all verifiers are one owner: it gets back less than it paid."""
    fleet = Fleet()
    chain = fleet.chain

    def owned() -> int:
        accounts = [chain.poster, *(account for each in chain.operators for account in (each.hot, each.payout))]
        return sum(chain.reader.balance(account) for account in accounts)

    before = owned()
    task = fleet.post()
    assert fleet.until_quiet(task) == Status.SETTLED
    (settled,) = [event for _, event in chain.events(abi.TASK_SETTLED) if event["task"] == task]
    assert before - owned() > settled["burnedWei"], "and the base fees of its messages"
    assert settled["burnedWei"] * 5 >= settled["fee"] > 0
    totals = views.totals(chain.reader)
    assert totals.minted * 2 <= totals.burned + 1, "half of what is burned comes into being, and goes to the fund"
