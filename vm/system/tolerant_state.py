"""What the Tolerant account keeps in storage: offers, open tasks, how tasks ended, and the wei that are escrowed.

Knows records and where they lie; who may change them is tolerant's question. A task that has ended leaves nothing here
but one more in two records: its story stands in the logs, its receipt with the Ledger.
"""

from dataclasses import dataclass

from primitives.address import TOLERANT
from vm.system import staking
from vm.system.context import ReadContext, Refused, SystemContext
from vm.system.layout import Queue, Scalar, Table, raw, uint
from vm.system.market_state import Bag

NAME_BYTES_MAX = 96
"""Of a model's name, UTF-8: as servers of models name them."""
OPEN_MAX = 64
"""Open tasks of one executor; one more is refused."""


@dataclass
class Offer:
    """What an operator answers, and for how much. A name of no bytes: no offer."""

    name: bytes = raw(NAME_BYTES_MAX)
    name_bytes: int = uint(8)
    prompt_bytes_max: int = uint(32)
    tokens_max: int = uint(32)
    deadline: int = uint(32)
    """Blocks after the one that asks in which it answers."""
    offered: int = uint(64)
    wei_per_prompt_byte: int = uint(96)
    wei_per_token: int = uint(96)

    @property
    def model(self) -> bytes:
        """The name of the model."""
        return self.name[: self.name_bytes]

    @property
    def terms(self) -> tuple[str, int, int, int, int, int]:
        """What an operator chose, in the order of the method that offers."""
        prices = self.wei_per_prompt_byte, self.wei_per_token
        return (self.model.decode(), *prices, self.prompt_bytes_max, self.tokens_max, self.deadline)

    def fee(self, prompt_bytes: int, tokens: int) -> int:
        """Wei for an answer of so many tokens to a prompt of so many bytes."""
        return self.wei_per_prompt_byte * prompt_bytes + self.wei_per_token * tokens


@dataclass
class Ask:
    """An open task of the tolerant lane. status: abi.STATE_*; last: the block through which its next message counts."""

    status: int = uint(8)
    prompt_bytes: int = uint(32)
    max_tokens: int = uint(32)
    tokens: int = uint(32)
    queue_ms: int = uint(32)
    total_ms: int = uint(32)
    asked: int = uint(64)
    last: int = uint(64)
    asker: bytes = raw(20)
    escrow: int = uint(96)
    executor: bytes = raw(20)
    wei_per_prompt_byte: int = uint(96)
    wei_per_token: int = uint(96)
    model: bytes = raw(32)
    """keccak of the model's name."""
    prompt_hash: bytes = raw(32)
    output_hash: bytes = raw(32)
    seed: bytes = raw(32)

    @property
    def fee(self) -> int:
        """Wei for the answer that was given, at the prices of the offer that was asked."""
        return self.wei_per_prompt_byte * self.prompt_bytes + self.wei_per_token * self.tokens


@dataclass
class Record:
    """How an account's tasks ended, as executor or as asker: counts, and wei that were paid."""

    accepted: int = uint(32)
    unopposed: int = uint(32)
    refused: int = uint(32)
    unanswered: int = uint(32)
    paid: int = uint(128)

    @property
    def values(self) -> tuple[int, ...]:
        """In the order of the ABI's struct."""
        return self.accepted, self.unopposed, self.refused, self.unanswered, self.paid


OFFERS = Table(TOLERANT, "offer", Offer)
ASKS = Table(TOLERANT, "task", Ask)
ASKED = Scalar(TOLERANT, "asked")
"""Tasks that were ever asked: the next one's sequence."""
ESCROWED = Scalar(TOLERANT, "escrowed")
"""Wei of all open tasks: what this account holds."""
OPEN = Bag(TOLERANT, "open")
"""Open tasks of an executor."""
DUE = Queue(TOLERANT, "due")
"""Tasks by the block whose prologue looks at them next; an entry that is not the one its task waits for is stale."""
AS_EXECUTOR = Table(TOLERANT, "record_executor", Record)
AS_ASKER = Table(TOLERANT, "record_asker", Record)


def load(ctx: ReadContext, task: bytes) -> Ask:
    """An open task. Raises Refused."""
    ask = ASKS.get(ctx, task)
    if ask is None:
        raise Refused("unknown_task", f"no task 0x{task.hex()} of the tolerant lane is open")
    return ask


def offer_of(ctx: ReadContext, operator: bytes) -> Offer | None:
    """The offer of an operator that is active and not jailed."""
    offer = OFFERS.get(ctx, operator)
    return offer if offer is not None and staking.active_bond(ctx, operator) else None


def wait_until(ctx: SystemContext, task: bytes, ask: Ask, last: int) -> None:
    """Its next message counts through block `last`; the prologue after that looks at it. Writes the task."""
    ask.last = last
    ASKS.put(ctx, ask, task)
    DUE.push(ctx, last + 1, task)


def note(ctx: SystemContext, ask: Ask, end: str, paid: int = 0) -> None:
    """One more task of both parties that ended so (a field of Record)."""
    for table, account in ((AS_EXECUTOR, ask.executor), (AS_ASKER, ask.asker)):
        record = table.get(ctx, account) or Record()
        setattr(record, end, min(getattr(record, end) + 1, 2**32 - 1))
        record.paid += paid
        table.put(ctx, record, account)


def close(ctx: SystemContext, task: bytes, ask: Ask) -> None:
    """Nothing is left of an open task. The caller has moved, or moves, the wei of its escrow."""
    ESCROWED.add(ctx, -ask.escrow)
    OPEN.remove(ctx, task, ask.executor)
    ASKS.delete(ctx, task)
