"""ethereum-tests' TransactionTests through decode and the static checks: same verdict, hash, sender, intrinsic gas."""

import copy
from pathlib import Path

import orjson
import pytest

from primitives.params import ChainParams
from primitives.transaction import InvalidTransaction, Transaction, decode
from vm.validity import check_static

FORKS = ("Cancun", "Shanghai", "London")
"""The newest that a vector was filled for decides."""


class VectorParams(ChainParams):
    """Vectors know no limit of a block."""

    @property
    def transaction_gas_max(self) -> int:
        return 2**64 - 1


PARAMS = VectorParams(chain_id=1)


def verdict(raw: bytes) -> Transaction | str:
    """The valid transaction, or why it is none. Prague's calldata floor is newer than these vectors: not counted."""
    try:
        transaction = copy.copy(decode(raw))
        transaction.__dict__["floor_gas"] = 0
        transaction.sender  # noqa: B018 - raises for a signature of nobody
        check_static(transaction, PARAMS)
    except InvalidTransaction as error:
        return str(error)
    return transaction


def test_every_vector_gets_its_verdict(vectors: Path) -> None:
    differ, seen = [], 0
    for path in sorted((vectors / "ethereum-tests" / "TransactionTests").rglob("*.json")):
        for name, test in orjson.loads(path.read_bytes()).items():
            expected = next(test["result"][fork] for fork in FORKS if fork in test["result"])
            found = verdict(bytes.fromhex(test["txbytes"].removeprefix("0x")))
            seen += 1
            if isinstance(found, str) != ("exception" in expected):
                differ.append(f"{path.stem}/{name}: {found!s:.200}, expected {expected}")
            elif isinstance(found, Transaction):
                shown = {
                    "hash": f"0x{found.hash.hex()}",
                    "sender": f"0x{found.sender.hex()}",
                    "intrinsicGas": found.intrinsic_gas,
                }
                wanted = {**expected, "intrinsicGas": int(expected["intrinsicGas"], 16)}
                if shown != {key: wanted[key] for key in shown}:
                    differ.append(f"{path.stem}/{name}: {shown}, expected {wanted}")
    print(f"{seen} transactions")
    assert seen > 100
    assert not differ, "\n".join(differ)


@pytest.mark.parametrize("type_id", [0x00, 0x05, 0x7E, 0x7F, 0x80, 0xBF])
def test_an_unknown_type_is_named(type_id: int) -> None:
    with pytest.raises(InvalidTransaction, match="transaction type"):
        decode(bytes((type_id, 0xC0)))
