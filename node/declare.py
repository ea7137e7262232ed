"""labora validator declare: what a validator does not take, in words of the command line.

What a declaration may say and from when it counts is the chain's (vm.system.terms); here words become numbers.
"""

import re
from collections.abc import Sequence
from typing import Any

from consensus.work.terms import HOURS
from node.client import to_hex
from node.exits import USAGE, Fatal
from node.post import find_model
from node.validator import Operator, Report
from primitives.task import Kind
from vm.system import abi

SPAN = re.compile(r"([0-9]{1,2})(?:-([0-9]{1,2}))?")


def declare(
    operator: Operator, reserve_price: int, hours: str, kinds: Sequence[str], models: Sequence[str], macs_max: int
) -> Report:
    """Models.declare; what is left out is taken. Raises Fatal."""
    operator.require()
    bits = hours_of(hours)
    refused = sum({1 << Kind[kind.upper()] for kind in kinds})
    named = [find_model(operator.client, model) for model in models]
    ids = [identifier for _, identifier in named]
    done = operator.send(abi.DECLARE, reserve_price, bits, refused, macs_max, ids)
    block = done.event(abi.TERMS_DECLARED)["fromBlock"]
    hour_list = [hour for hour in range(HOURS) if bits >> hour & 1]
    terms = in_words(reserve_price, hour_list, sorted(set(kinds)), [name for name, _ in named], macs_max)
    lines = [f"counts from block {block} on; until then nothing changes"]
    return done.told(
        [*lines, *(terms or ["takes every task of what it serves"])], fromBlock=block,
        reservePrice=str(reserve_price), hoursUtc=bits, refusedKinds=sorted(set(kinds)),
        refusedModels=[to_hex(identifier) for identifier in ids], macsMax=str(macs_max),
    )  # fmt: skip


def in_words(
    reserve_price: int, hours: Sequence[int], kinds: Sequence[str], models: Sequence[str], macs_max: int
) -> list[str]:
    """What terms refuse, a line each; none where they refuse nothing."""
    lines = []
    if reserve_price:
        lines.append(f"takes no task below {reserve_price:,} wei a CWU, tip included")
    if hours:
        spans = ", ".join(f"{first}:00 to {last}:00" for first, last in _spans(hours))
        lines.append(f"works from {spans} UTC")
    if kinds:
        lines.append(f"takes no task of kind {', '.join(kinds)}")
    if models:
        lines.append(f"takes no task of {', '.join(models)}")
    if macs_max:
        lines.append(f"takes no task of more than {macs_max:,} multiply-adds")
    return lines


def terms_in_words(terms: dict[str, Any]) -> list[str]:
    """The same of terms as labora_validators shows them."""
    return in_words(
        int(terms["reservePriceWei"]), terms["hoursUtc"], terms["refusedKinds"], terms["refusedModels"],
        int(terms["macsMax"]),
    )  # fmt: skip


def _spans(hours: Sequence[int]) -> list[tuple[int, int]]:
    """(first hour, hour after the last) of each run in a list of hours; one that goes over midnight is one."""
    starts = [hour for hour in hours if (hour - 1) % HOURS not in hours]
    ends = [(hour + 1) % HOURS or HOURS for hour in hours if (hour + 1) % HOURS not in hours]
    return [(start, next((end for end in ends if end > start), ends[0])) for start in starts]


def hours_of(text: str) -> int:
    """Bit h for every hour h in a list of hours and spans (8-18 is 8 to 17; 22-6 goes over midnight); 0 for every one.
    Raises Fatal (2)."""
    bits = 0
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = SPAN.fullmatch(part)
        first = int(match[1]) if match else HOURS
        end = int(match[2]) if match and match[2] else first + 1
        if first >= HOURS or end > HOURS or end == first:
            raise Fatal(USAGE, f"--hours: {part!r} is no hour or span of hours, such as 8, 8-18 or 22-6")
        for hour in range(first, end if end > first else end + HOURS):
            bits |= 1 << hour % HOURS
    return 0 if bits == (1 << HOURS) - 1 else bits
