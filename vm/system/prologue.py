"""The system prologue: what a block does before its transactions, in one fixed order (docs/formats.md).

(0) the mix and the base price, (1) windows and deadlines that ended, then the Referee's clocks, (2) audit draws, (3)
settlements, callbacks and ends of the tolerant lane, (4) deals, (5) canaries, and what is old enough is forgotten, (6)
in an epoch's last block the epoch turn. The steps are the Market's, the Referee's and Tolerant's; this file owns their
order, the gas kept back for the turn, and that nothing in them can undo steps 0 and 6.
"""

from collections.abc import Callable

from primitives.hashing import ZERO_HASH
from vm.system import abi, beacon, gas, ledger, market, referee, tolerant, turn
from vm.system.context import Call, OutOfGas, Refused, SystemContext

Step = Callable[[SystemContext], bool]
"""One of steps 1 to 5: handles items in order, each in a frame of its own, starting one only while ctx.gas_left is at
least the item's fixed maximum (the reserve for the turn is already out of it). False: stopped for want of gas, so the
steps after it wait for the next block too."""

STEPS: tuple[tuple[str, Step], ...] = (
    market.STEPS[0], referee.STEP, *market.STEPS[1:4], tolerant.STEP, *market.STEPS[4:],
    referee.LAST_STEP,
)  # fmt: skip


def run(ctx: SystemContext, parent_hash: bytes, beacon_proof: bytes) -> None:
    """The prologue of ctx's block. parent_hash and beacon_proof were checked by the chain; no draw reads them."""
    ctx.charge(gas.MIX, "mix")
    beacon.store(ctx)
    ctx.charge(gas.PRICE, "base price")
    ledger.move_price(ctx)
    reserve = turn.gas_needed(ctx) if ctx.params.is_epoch_end(ctx.height) else 0
    assert reserve <= ctx.gas_left, (reserve, ctx.gas_left)
    for name, step in STEPS:
        try:
            with ctx.frame(ctx.gas_left - reserve):
                go_on = step(ctx)
        except Refused as refusal:
            abi.emit(ctx, abi.ITEM_FAILED, ZERO_HASH, name, refusal.code, refusal.text)
        except OutOfGas as error:
            abi.emit(ctx, abi.ITEM_FAILED, ZERO_HASH, name, "out_of_gas", str(error))
        else:
            if not go_on:
                break
    if reserve:
        ctx.charge(reserve, "epoch turn")
        turn.run(ctx)


def handle(ctx: SystemContext, call: Call, parent_hash: bytes, beacon_proof: bytes) -> None:
    """Market.prologue: the dispatcher lets only the system transaction through."""
    run(ctx, parent_hash, beacon_proof)


def prologue_data(parent_hash: bytes, beacon_proof: bytes) -> bytes:
    """Calldata of the system transaction."""
    return abi.PROLOGUE.encode_call(parent_hash, beacon_proof)
