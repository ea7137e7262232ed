"""Soft answers: one encoding, bound to chain, task and attempt; nothing that is too long or odd is opened."""

from dataclasses import replace

import pytest

from primitives import rlp
from primitives.keys import InvalidSignature, address_of
from primitives.soft import SOFT_BYTES_MAX, SOFT_TOKENS_MAX, InvalidSoftAnswer, SoftAnswer
from primitives.soft import open_soft_answer as opened
from primitives.soft import sign_soft_answer as signed
from primitives.vote import SignContext

CONTEXT = SignContext(31337, b"g" * 32)
KEY = b"\x11" * 32
ANSWER = SoftAnswer(b"t" * 32, b"k" * 32, 7, (1, 2, 2**32 - 1))


def test_what_is_signed_opens_to_the_same_and_to_its_signer() -> None:
    for answer in (ANSWER, replace(ANSWER, first=0, tokens=(5,) * SOFT_TOKENS_MAX)):
        data = signed(answer, CONTEXT, KEY)
        assert opened(data, CONTEXT) == (answer, address_of(KEY)) and len(data) <= SOFT_BYTES_MAX


@pytest.mark.parametrize("context", [SignContext(1, b"g" * 32), SignContext(31337, b"h" * 32)])
def test_on_another_chain_it_is_somebody_elses(context: SignContext) -> None:
    try:
        assert opened(signed(ANSWER, CONTEXT, KEY), context)[1] != address_of(KEY)
    except InvalidSignature:
        pass  # or no key's at all


@pytest.mark.parametrize(
    "change", [{"task": b"u" * 32}, {"trace_key": b"l" * 32}, {"first": 8}, {"tokens": (1, 2)}, {"tokens": (1, 2, 3)}]
)
def test_every_field_is_signed(change: dict) -> None:
    assert replace(ANSWER, **change).digest(CONTEXT) != ANSWER.digest(CONTEXT)


def test_what_is_no_soft_answer_is_refused() -> None:
    good = rlp.decode_list(signed(ANSWER, CONTEXT, KEY))
    for place, value in (
        (0, b"t" * 31), (1, b""), (2, b"\0\1"), (2, b"\1" * 5), (3, b""), (3, b"\0" * 5),
        (3, b"\0" * 4 * (SOFT_TOKENS_MAX + 1)), (3, [b"\0" * 4]), (4, b"s" * 64),
    ):  # fmt: skip
        with pytest.raises(InvalidSoftAnswer):
            opened(rlp.encode([*good[:place], value, *good[place + 1 :]]), CONTEXT)
    for data in (b"", b"\xc0", rlp.encode(good[:4]), rlp.encode([*good, b""]), b"\xff" * 40, b"\xf8" * 3000):
        with pytest.raises(InvalidSoftAnswer):
            opened(data, CONTEXT)
    with pytest.raises(InvalidSignature):
        opened(rlp.encode([*good[:4], b"\xff" * 65]), CONTEXT)
