"""Receipts, totals, and the journal beneath them, on both contexts."""

import eth_abi
import pytest
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.message import Message
from evm_sample import Evm
from sample import PEOPLE, STRANGER, started

from primitives.address import LEDGER, MARKET
from primitives.hashing import keccak
from vm.system import abi, ledger
from vm.system.context import OutOfGas, Refused
from vm.system.evm import EvmContext
from vm.system.ledger import Burn, ComputeReceipt


def evm_context():
    evm = Evm()
    message = Message(gas=10**6, to=LEDGER, sender=STRANGER.operator, value=0, data=b"", code=b"\xfe")
    computation = evm.state.computation_class(
        evm.state, message, CancunTransactionContext(gas_price=0, origin=STRANGER.operator)
    )
    ctx = EvmContext(computation, started().params, keccak(b"genesis of a test"))
    return ctx, lambda: len(computation._log_entries)


def memory_context():
    ctx = started()
    ctx.gas_limit = 10**6
    return ctx, lambda: len(ctx.logs)


@pytest.fixture(params=[evm_context, memory_context], ids=["evm", "memory"])
def both(request):
    """(context, number of logs so far)."""
    return request.param()


def test_a_frame_that_fails_leaves_no_word_no_log_no_wei_and_spends_its_gas(both):
    ctx, logs = both
    fund = ctx.balance(MARKET)
    left = ctx.gas_left
    for _ in range(3):
        with pytest.raises(Refused), ctx.frame():
            ctx.set(LEDGER, 5, 6)
            ledger.mint(ctx, MARKET, 100)
            ledger.burn(ctx, MARKET, 30, Burn.FEE)
            abi.emit(ctx, abi.FUND_FILLED, MARKET, 1, 2)
            with ctx.frame():
                ctx.set(LEDGER, 7, 8)
            ctx.charge(10, "item")
            raise Refused("no", "no")
    assert (ctx.get(LEDGER, 5), ctx.get(LEDGER, 7), logs()) == (0, 0, 0)
    assert ctx.balance(MARKET) == fund
    assert ledger.get_totals(ctx) == ledger.Totals()
    assert ctx.gas_left == left - 30


def test_a_frame_that_ends_well_keeps_what_it_did_beside_one_that_failed(both):
    ctx, logs = both
    with ctx.frame():
        ctx.set(LEDGER, 1, 1)
        abi.emit(ctx, abi.FUND_FILLED, MARKET, 1, 2)
        with pytest.raises(Refused), ctx.frame():
            ctx.set(LEDGER, 1, 2)
            abi.emit(ctx, abi.FUND_FILLED, MARKET, 1, 3)
            raise Refused("no", "no")
    assert ctx.get(LEDGER, 1) == 1
    assert logs() == 1


def test_a_frame_charges_no_more_than_its_limit_and_an_inner_limit_counts_too(both):
    ctx, _ = both
    left = ctx.gas_left
    with pytest.raises(OutOfGas), ctx.frame(100):
        assert ctx.gas_left == 100
        ctx.charge(60, "a")
        with ctx.frame(1_000):
            assert ctx.gas_left == 40
        with ctx.frame(10):
            assert ctx.gas_left == 10
        ctx.charge(41, "b")
    assert ctx.gas_left == left - 60


def test_nobody_pays_what_it_does_not_hold(both):
    ctx, _ = both
    poor = b"\x77" * 20
    for attempt in (
        lambda: ctx.transfer(poor, MARKET, 1),
        lambda: ledger.burn(ctx, poor, 1, Burn.FEE),
    ):
        with pytest.raises(Refused) as refusal, ctx.frame():
            attempt()
        assert refusal.value.code == "insufficient_balance"


def test_totals_follow_every_wei_that_is_made_or_destroyed(both):
    ctx, _ = both
    before = ctx.balance(MARKET)
    ledger.mint(ctx, MARKET, 50)
    for wei, why in ((1, Burn.FEE), (2, Burn.CALLBACK), (3, Burn.EXPIRY), (4, Burn.SLASH), (0, Burn.FEE)):
        ledger.burn(ctx, MARKET, wei, why)
    totals = ledger.get_totals(ctx)
    assert (totals.minted, totals.burned) == (50, 10)
    assert (totals.burned_fees, totals.burned_expiry, totals.burned_slashes) == (1, 3, 4)
    assert ctx.balance(MARKET) == before + totals.minted - totals.burned


def receipt(**changes) -> ComputeReceipt:
    values = {
        "task": keccak(b"task"), "executor": PEOPLE[0].operator, "kind_of_payer": abi.CLASS_PAID, "lane": 0, "kind": 0,
        "model": keccak(b"model"), "prompt_hash": keccak(b"p"), "output_hash": keccak(b"o"), "seed": keccak(b"s"),
        "prompt_tokens": 7, "output_tokens": 9, "prefill_macs": 70, "decode_macs": 90,
        "prefill_bytes": 30, "decode_bytes": 300, "verifiers": (PEOPLE[1].operator, PEOPLE[2].operator),
        "verification": abi.VERIFIED_AUDIT, "outcome": abi.OUTCOME_AGREED, "root": keccak(b"T"), "price": 10**12,
        "fee": 10**15,
        "payer": STRANGER.operator, "queue_ms": 1, "first_token_ms": 2, "total_ms": 3, "device": b"numpy",
    }  # fmt: skip
    return ComputeReceipt(**{**values, **changes})


def test_a_receipts_id_is_recomputed_from_its_log_alone():
    ctx = started()
    identity = ledger.record_receipt(ctx, receipt())
    [event] = ctx.events(abi.RECEIPT)
    assert event["receipt"] == identity == ledger.receipt_of(ctx, keccak(b"task"))
    values = [value for name, value in event.items() if name not in ("event", "receipt")]
    types = [param.canonical for param in abi.RECEIPT.params if param.name != "receipt"]
    assert keccak(eth_abi.encode(types, values)) == identity


@pytest.mark.parametrize("change", [{"fee": 1}, {"device": b"torch"}, {"verifiers": ()}, {"total_ms": 4}], ids=str)
def test_any_change_makes_another_receipt(change):
    assert receipt(**change).id != receipt().id


def test_work_is_counted_by_who_paid_for_it():
    ctx = started()
    ledger.record_receipt(ctx, receipt())
    ledger.record_receipt(ctx, receipt(kind_of_payer=abi.CLASS_CANARY))
    ledger.record_receipt(ctx, receipt(verification=abi.VERIFIED_NONE))
    totals = ledger.get_totals(ctx)
    assert (totals.macs_paid, totals.macs_canary, totals.macs_commissioned) == (320, 160, 0)
    assert (totals.settled, totals.unverified, totals.canaries) == (2, 1, 1)


def test_work_of_who_is_no_active_operator_counts_for_nothing():
    ctx = started()
    ledger.add_work(ctx, STRANGER.operator, 10, 10)
    ledger.add_work(ctx, PEOPLE[0].operator, 10, 2)
    ledger.add_work(ctx, PEOPLE[0].operator, 1, 1)
    assert ledger.standing(ctx, STRANGER.operator) == ledger.Standing()
    assert ledger.standing(ctx, PEOPLE[0].operator) == ledger.Standing(0, 11, 3)
