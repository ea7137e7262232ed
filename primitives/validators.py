"""A validator set and the bitmaps over it: frozen values, their one encoding and their hash.

Knows nothing of how power is earned (consensus.work) nor of who votes when (consensus.bft).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from primitives import rlp
from primitives.hashing import keccak

VALIDATORS_MAX = 128
"""Members of a set; every signature list and bitmap is bounded by it."""
TOTAL_POWER_MAX = 2**53 - 1
"""Sum of powers, in units of 10^15 wei: exact in every JSON reader."""
BEACON_KEY_BYTES = 48
"""A compressed point of BLS12-381's G1."""
SET_BYTES_MAX = VALIDATORS_MAX * 136 + 16
"""Longest encoding: per member 21 + 21 + at most 8 + 49 bytes and a header, rounded up."""


class InvalidValidatorSet(ValueError):
    """Bytes or members that make no validator set."""


class InvalidBitmap(ValueError):
    """A bitmap of the wrong length, or with a bit that names nobody."""


@dataclass(frozen=True, slots=True)
class Validator:
    """One member: who it is, the key it votes with, how much its vote weighs (10^15 wei), its beacon key."""

    operator: bytes
    consensus_address: bytes
    power: int
    beacon_key: bytes


@dataclass(frozen=True)
class ValidatorSet:
    """Members sorted by operator address; each operator and each consensus address once; powers above zero.

    Raises InvalidValidatorSet. Build one from members in any order with `ValidatorSet.of`.
    """

    validators: tuple[Validator, ...]

    def __post_init__(self) -> None:
        members = self.validators
        if not 0 < len(members) <= VALIDATORS_MAX:
            raise InvalidValidatorSet(f"{len(members)} validators; a set has 1 to {VALIDATORS_MAX}")
        for member in members:
            if len(member.operator) != 20 or len(member.consensus_address) != 20:
                raise InvalidValidatorSet(f"an address of {member.operator.hex()} does not have 20 bytes")
            if len(member.beacon_key) != BEACON_KEY_BYTES:
                raise InvalidValidatorSet(
                    f"the beacon key of {member.operator.hex()} has {len(member.beacon_key)} bytes"
                )
            if member.power <= 0:
                raise InvalidValidatorSet(f"{member.operator.hex()} has power {member.power}; a member has some")
        for left, right in pairwise(members):
            if left.operator >= right.operator:
                raise InvalidValidatorSet(f"{right.operator.hex()} does not follow {left.operator.hex()}")
        if len({member.consensus_address for member in members}) != len(members):
            raise InvalidValidatorSet("two members share a consensus address")
        if self.total_power > TOTAL_POWER_MAX:
            raise InvalidValidatorSet(f"total power {self.total_power} is above {TOTAL_POWER_MAX}")

    @classmethod
    def of(cls, members: Iterable[Validator]) -> "ValidatorSet":
        """The set of these members, sorted. Raises InvalidValidatorSet."""
        return cls(tuple(sorted(members, key=lambda member: member.operator)))

    @classmethod
    def decode(cls, data: bytes) -> "ValidatorSet":
        """The set that `data` is the encoding of. Raises InvalidValidatorSet."""
        if len(data) > SET_BYTES_MAX:
            raise InvalidValidatorSet(f"{len(data)} bytes; a set has at most {SET_BYTES_MAX}")
        try:
            rows = [rlp.as_list(row, 4) for row in rlp.decode_list(data)]
            members = tuple(
                Validator(
                    operator=rlp.as_bytes(row[0], length=20),
                    consensus_address=rlp.as_bytes(row[1], length=20),
                    power=rlp.as_uint(row[2], bits=64),
                    beacon_key=rlp.as_bytes(row[3], length=BEACON_KEY_BYTES),
                )
                for row in rows
            )
        except rlp.RLPError as error:
            raise InvalidValidatorSet(f"not a validator set: {error}") from error
        return cls(members)

    @cached_property
    def encoded(self) -> bytes:
        """rlp[[operator, consensus address, power, beacon key] ...], sorted by operator."""
        return rlp.encode(
            [[v.operator, v.consensus_address, rlp.from_uint(v.power), v.beacon_key] for v in self.validators]
        )

    @cached_property
    def hash(self) -> bytes:
        """keccak of the encoding; headers carry it."""
        return keccak(self.encoded)

    @cached_property
    def total_power(self) -> int:
        """Sum of powers."""
        return sum(member.power for member in self.validators)

    @cached_property
    def indexes(self) -> dict[bytes, int]:
        """Consensus address -> place in set order."""
        return {member.consensus_address: index for index, member in enumerate(self.validators)}

    @cached_property
    def operator_indexes(self) -> dict[bytes, int]:
        """Operator address -> place in set order."""
        return {member.operator: index for index, member in enumerate(self.validators)}

    def index_of(self, consensus_address: bytes) -> int | None:
        """Place in set order of the member that votes with this key; None for a stranger."""
        return self.indexes.get(consensus_address)

    def by_consensus_address(self, consensus_address: bytes) -> Validator | None:
        """The member that votes with this key; None for a stranger."""
        index = self.indexes.get(consensus_address)
        return None if index is None else self.validators[index]

    def by_operator(self, operator: bytes) -> Validator | None:
        """The member of this operator; None for a stranger."""
        index = self.operator_indexes.get(operator)
        return None if index is None else self.validators[index]

    def power_of(self, indexes: Iterable[int]) -> int:
        """Sum of the powers at these places of the set order, each counted as often as it is named."""
        return sum(self.validators[index].power for index in indexes)

    @cached_property
    def quorum_power(self) -> int:
        """Least power that is more than two thirds: 3w > 2W."""
        return 2 * self.total_power // 3 + 1

    @cached_property
    def over_third_power(self) -> int:
        """Least power that is more than one third: 3w > W, so that a correct member is among them."""
        return self.total_power // 3 + 1

    def is_quorum(self, power: int) -> bool:
        """More than two thirds."""
        return power >= self.quorum_power

    def is_over_third(self, power: int) -> bool:
        """More than one third."""
        return power >= self.over_third_power

    def __len__(self) -> int:
        return len(self.validators)


def bitmap_of(indexes: Iterable[int], size: int) -> bytes:
    """Bitmap over `size` members: bit i is bit i % 8 (0 = least significant) of byte i // 8, spare bits zero."""
    bitmap = bytearray((size + 7) // 8)
    for index in indexes:
        assert 0 <= index < size
        bitmap[index // 8] |= 1 << (index % 8)
    return bytes(bitmap)


def indexes_of(bitmap: bytes, size: int) -> list[int]:
    """Ascending places that a bitmap over `size` members names. Raises InvalidBitmap."""
    if len(bitmap) != (size + 7) // 8:
        raise InvalidBitmap(f"{len(bitmap)} bytes of bitmap for {size} members")
    value = int.from_bytes(bitmap, "little")
    if value >> size:
        raise InvalidBitmap(f"bitmap {bitmap.hex()} has a bit at or above {size}")
    return [index for index in range(size) if value >> index & 1]
