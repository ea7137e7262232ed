"""What past blocks charged, for eth_feeHistory. The rule of the next base fee is vm.validity's."""

from collections.abc import Sequence
from dataclasses import dataclass

from primitives.block import Block
from primitives.receipt import Receipt
from primitives.transaction import Transaction

PERCENT = 100
"""Percentiles are given in hundredths of a per cent: 5,000 is the median."""


@dataclass(frozen=True)
class FeeHistory:
    """Integers of eth_feeHistory: one entry a block from `oldest` on; base_fees has one more, the next."""

    oldest: int
    base_fees: tuple[int, ...]
    gas_used: tuple[int, ...]
    gas_limit: int
    rewards: tuple[tuple[int, ...], ...]
    """Per block, the effective tip (wei per gas) at each percentile that was asked for."""


def rewards(block: Block, receipts: Sequence[Receipt], percentiles: Sequence[int]) -> tuple[int, ...]:
    """Effective tips at these percentiles of the gas that users' transactions used; 0s for a block without any.

    percentiles: ascending, in hundredths of a per cent. The prologue pays nothing and is not counted.
    """
    base_fee = block.header.base_fee_per_gas
    paid = sorted(
        (transaction.effective_tip(base_fee), receipt.gas_used)
        for transaction, receipt in zip(block.transactions, receipts, strict=True)
        if isinstance(transaction, Transaction)
    )
    if not paid:
        return (0,) * len(percentiles)
    total = sum(gas for _, gas in paid)
    tips = []
    at, counted = 0, paid[0][1]
    for percentile in percentiles:
        threshold = total * percentile // (100 * PERCENT)
        while counted < threshold and at < len(paid) - 1:
            at += 1
            counted += paid[at][1]
        tips.append(paid[at][0])
    return tuple(tips)
