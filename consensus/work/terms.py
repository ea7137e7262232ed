"""What an operator declared ahead that it does not take: a price, hours, models, kinds, sizes.

Pure: a declaration and a task in, whether it is refused out. From when a declaration counts is the caller's business
(the set after next, so that nobody refuses what a draw already shows).
"""

from collections.abc import Collection
from dataclasses import dataclass

from primitives.task import Kind

HOURS = 24
MODELS_MAX = 4
MODEL_BYTES = 8
"""A model is named by the beginning of its id, so that four fill a word; who refuses one too many harms itself."""
PRICE_MAX = 2**96 - 1
MACS_MAX = 2**64 - 1


@dataclass(frozen=True)
class Terms:
    """reserve_price: wei a CWU, tip included, below which no user's task is taken. hours: bit h is the hour h UTC in
    which it works, 0 for every one. refused_kinds: bit per Kind. macs_max: of the largest task, 0 for any."""

    reserve_price: int = 0
    hours: int = 0
    refused_kinds: int = 0
    macs_max: int = 0
    refused_models: tuple[bytes, ...] = ()

    def away(self, timestamp: int) -> bool:
        """Whether a moment (seconds) is outside its hours."""
        return bool(self.hours) and not self.hours >> (timestamp // 3_600 % HOURS) & 1

    def refuses(self, timestamp: int, kind: Kind, model: bytes, macs: int, price: int | None) -> bool:
        """Whether it is not to be dealt such a task at that moment. price: wei a CWU with the tip; None: a canary's,
        which nobody pays."""
        return (
            self.away(timestamp)
            or bool(self.refused_kinds >> kind & 1)
            or (0 < self.macs_max < macs)
            or (price is not None and price < self.reserve_price)
            or model[:MODEL_BYTES] in self.refused_models
        )


def problem(terms: Terms, models: Collection[bytes]) -> str:
    """Why a declaration cannot be (models: the ids that it names); empty when it can."""
    if not 0 <= terms.reserve_price <= PRICE_MAX:
        return f"a reserve price of {terms.reserve_price} wei a CWU; at most {PRICE_MAX}"
    if not 0 <= terms.hours < 1 << HOURS:
        return f"hours {terms.hours:#x}: one bit for each of {HOURS}"
    if not 0 <= terms.refused_kinds < 1 << len(Kind):
        return f"refused kinds {terms.refused_kinds:#x}: one bit for each of {len(Kind)}"
    if not 0 <= terms.macs_max <= MACS_MAX:
        return f"a largest task of {terms.macs_max} multiply-adds; at most {MACS_MAX}"
    if len(models) > MODELS_MAX or len(set(models)) != len(models):
        return f"{len(models)} refused models; at most {MODELS_MAX} different ones: stop serving the others"
    return ""
