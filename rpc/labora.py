"""labora_ methods: tasks with their story, validators, models, health. Wei and CWU are decimal strings."""

from typing import Any

from consensus.work.terms import HOURS, Terms
from primitives.address import TOLERANT
from primitives.reasons import Reason
from primitives.task import Kind
from rpc import tolerant_story
from rpc.codec import address, data, read_hash, read_quantity
from rpc.context import Context
from rpc.task_story import PlacedLog, cwu_text, tell
from vm.system import abi, views
from vm.system.mishaps import Mishap


def task(context: Context, task_id: Any) -> Any:
    """A task's story from its logs, of whichever lane; null when the chain knows none of that id."""
    wanted = read_hash(task_id, "task")
    logs = [
        PlacedLog(found.block_number, found.timestamp, found.transaction_hash, found.log)
        for found in context.ledger.task_logs(wanted)
    ]
    if not logs:
        return None
    if logs[0].log.address == TOLERANT:
        return tolerant_story.tell(wanted, logs)
    reader = context.ledger.reader()
    return tell(wanted, logs, lambda account: views.operator_by_hot(reader, account))


def soft_answers(context: Context, task_id: Any, start: Any = "0x0") -> list[dict[str, Any]]:
    """Tokens of a task's answer while it is being made, from number `start` on, by each operator that this node has
    heard: not final, and of no weight."""
    return context.backend.soft_answers(read_hash(task_id, "task"), read_quantity(start, "start", 32))


def validators(context: Context) -> dict[str, Any]:
    """The set that votes on the next block, and every operator with bond, credit, power and what it serves."""
    ledger = context.ledger
    reader = ledger.reader()
    height = ledger.head.number + 1
    members = ledger.validator_set(height)
    power = {member.operator: member.power for member in members.validators}
    return {
        "height": ledger.head.number,
        "epoch": ledger.params.epoch(height),
        "totalPower": members.total_power,
        "validators": [
            {
                "operator": address(operator.operator),
                "consensusAddress": address(operator.consensus_address),
                "hot": address(operator.hot),
                "payout": address(operator.payout),
                "bondWei": str(operator.bond),
                "delegatedWei": str(operator.delegated),
                "commission": operator.commission,
                "power": power.get(operator.operator, 0),
                "credit": cwu_text(operator.credit),
                "active": operator.active,
                "jailed": operator.jailed,
                "serves": [
                    {"model": data(model), "macsPerBlock": str(declared), "effectiveMacsPerBlock": str(effective)}
                    for model, declared, effective in operator.serves
                ],
                "terms": _terms(operator.terms),
                "nextTerms": operator.next_terms
                and {**_terms(operator.next_terms[0]), "fromBlock": operator.next_terms[1]},
                "thisEpoch": {
                    "dealt": sum(service.dealt for service in operator.services),
                    "missed": sum(service.missed for service in operator.services),
                },
                "misses": [_mishap(mishap) | {"counted": bool(mishap.counted)} for mishap in operator.misses],
                "refusals": [_mishap(mishap) for mishap in operator.refusals],
                "slashes": [_mishap(mishap) | {"amountWei": str(mishap.wei)} for mishap in operator.slashes],
            }
            for operator in views.operators(reader, ledger.params, height)
        ],
    }


def _terms(terms: Terms) -> dict[str, Any]:
    return {
        "reservePriceWei": str(terms.reserve_price),
        "hoursUtc": [hour for hour in range(HOURS) if terms.hours >> hour & 1],
        "refusedKinds": [kind.name.lower() for kind in Kind if terms.refused_kinds >> kind & 1],
        "refusedModels": [data(model) for model in terms.refused_models],
        "macsMax": str(terms.macs_max),
    }


def _mishap(mishap: Mishap) -> dict[str, Any]:
    return {"task": data(mishap.task), "block": mishap.block, "reason": Reason(mishap.reason).code}


def models(context: Context) -> list[dict[str, Any]]:
    """Models that tasks may name, those of genesis first."""
    ledger = context.ledger
    found = []
    for model in views.models(ledger.reader(), ledger.params, ledger.head.number + 1):
        uri, licence = _registration(context, model.model_id)
        cost, registrant = model.cost, model.registrant
        found.append({
            "model": data(model.model_id),
            "name": model.name,
            "listed": model.listed,
            "earnsCredit": model.earns_credit,
            "vocabulary": model.vocabulary,
            "context": model.context,
            "width": model.width,
            "kinds": [kind.name.lower() for kind in model.kinds],
            "cost": {"a": str(cost.a), "b": str(cost.b), "c": str(cost.c)},
            "referenceMacsPerBlock": str(model.reference_macs_per_block),
            "stopIds": list(model.stop_ids),
            "record": data(model.record),
            "programRoot": data(model.program_root),
            "registrant": None if registrant is None else address(registrant),
            "uri": uri,
            "licence": licence,
            "servedBy": model.served_by,
            "servers": [address(operator) for operator in model.servers],
        })  # fmt: skip
    return found


def _registration(context: Context, model: bytes) -> tuple[str | None, str | None]:
    """(uri, licence) as they were registered; None of a model of genesis."""
    for entry in context.ledger.task_logs(model):
        event = abi.EVENTS.get(entry.log.topics[0])
        if event is abi.MODEL_REGISTERED:
            values = event.decode(entry.log.topics, entry.log.data)
            return values["uri"], values["licence"]
    return None, None


def health(context: Context) -> dict[str, Any]:
    """How this node does: height, round, peers, engine, tasks, clock."""
    return context.backend.health()
