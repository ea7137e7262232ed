"""contracts/ReceiptProof.sol on our own EVM: what labora receipts prove makes is believed, anything else is not.

The contract is given bytes alone: that they are of the chain that it runs on, it does not know.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from eth_abi import decode, encode
from receipt_chain import ReceiptChain

from node.client import RpcFailure, from_hex, to_hex
from node.prove import prove
from node.receipts import accounts
from primitives.hashing import keccak
from vm.system import abi

ARTIFACT = json.loads((Path(__file__).resolve().parents[1] / "clients" / "ReceiptWatcher.json").read_text())
BLOCK = "(bytes,bytes,bytes,uint32,bytes,bytes[])"
BEGIN = "begin(uint256,bytes32,bytes,bytes)"
FOLLOW = f"follow({BLOCK})"
RECEIPT_OF = f"receiptOf(bytes32,{BLOCK},bytes[],bytes[])"
HOLDS = f"holds(bytes32,uint64,uint256,bytes32[],{BLOCK},bytes[],bytes[][2])"
WRONG = keccak(b"Wrong(string)")[:4]


def calldata(signature: str, *values: Any) -> bytes:
    kinds = _kinds(signature[signature.index("(") + 1 : -1])
    return keccak(signature.encode())[:4] + encode(kinds, values)


def _kinds(text: str) -> list[str]:
    kinds, depth, start = [], 0, 0
    for place, letter in enumerate(text + ","):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            kinds.append(text[start:place])
            start = place + 1
    return kinds


def block_of(told: dict[str, Any]) -> tuple[Any, ...]:
    votes = told["certificate"]
    signatures = [from_hex(signature) for signature in votes["signatures"]]
    parts = [from_hex(told[name]) for name in ("header", "sidecar", "validatorSet")]
    return (*parts, votes["round"], from_hex(votes["bitmap"]), signatures)


class Watched:
    """The chain, proofs of an old and a new receipt, and a watcher on it that has come to the proofs' epoch."""

    def __init__(self) -> None:
        chain = self.chain = ReceiptChain(epoch_blocks=16, receipts_kept_epochs=1, canaries_per_validator=1)
        chain.block()
        chain.post()
        chain.run(20)
        chain.post(most=3)
        chain.run(15)
        found = [a for a in accounts(chain, 0, chain.height) if a.receipt["class"] == abi.CLASS_PAID]  # type: ignore[arg-type]
        self.old, self.new = found[0], found[-1]
        self.folded, self.kept = (
            json.loads(json.dumps(prove(chain, each, None))) for each in (self.old, self.new)  # type: ignore[arg-type]
        )
        assert self.folded["folded"] is not None and self.kept["folded"] is None
        self.watcher = chain.create(from_hex(ARTIFACT["bytecode"]))
        first, *trail = self.kept["trail"]
        genesis = chain.ledger.genesis_hash
        header, sidecar = from_hex(first["header"]), from_hex(first["sidecar"])
        chain.transact(self.watcher, calldata(BEGIN, 31_337, genesis, header, sidecar))
        self.gas = [chain.transact(self.watcher, calldata(FOLLOW, block_of(block))) for block in trail]

    def read(self, data: bytes, kind: str) -> Any:
        shown = self.chain.call("eth_call", {"to": self.watcher, "data": to_hex(data)}, "latest")
        return decode([kind], from_hex(shown))[0]

    def receipt_of(self, proof: dict[str, Any]) -> bytes:
        task = from_hex(proof["fields"][0])
        state, storage = proof["accountProof"], proof["storageProof"][0]["proof"]
        nodes = [[from_hex(node) for node in each] for each in (state, storage)]
        found: bytes = self.read(calldata(RECEIPT_OF, task, block_of(proof["block"]), *nodes), "bytes32")
        return found

    def holds(self, proof: dict[str, Any], receipt: bytes) -> bool:
        folded = proof["folded"]
        siblings = [from_hex(node) for node in folded["siblings"]]
        state = [from_hex(node) for node in proof["accountProof"]]
        both = [[from_hex(node) for node in entry["proof"]] for entry in proof["storageProof"]]
        place = (folded["epoch"], folded["index"], siblings)
        found: bool = self.read(calldata(HOLDS, receipt, *place, block_of(proof["block"]), state, both), "bool")
        return found


@pytest.fixture(scope="module")
def watched() -> Watched:
    return Watched()


def test_the_contract_follows_the_sets_and_believes_both_kinds_of_receipt(watched: Watched) -> None:
    assert len(watched.gas) == 2 and max(watched.gas) < 1_000_000, watched.gas
    assert watched.receipt_of(watched.kept) == watched.new.receipt["receipt"]
    assert watched.holds(watched.folded, watched.old.receipt["receipt"])
    assert not watched.holds(watched.folded, watched.new.receipt["receipt"])


def _flip(text: str, place: int) -> str:
    data = bytearray(from_hex(text))
    data[place] ^= 1
    return to_hex(bytes(data))


TAMPERED = {
    "header": lambda p: p["block"].update(header=_flip(p["block"]["header"], 70)),
    "sidecar": lambda p: p["block"].update(sidecar=_flip(p["block"]["sidecar"], 70)),
    "set": lambda p: p["block"].update(validatorSet=_flip(p["block"]["validatorSet"], 30)),
    "round": lambda p: p["block"]["certificate"].update(round=1),
    "too few votes": lambda p: p["block"]["certificate"].update(
        bitmap="0x03", signatures=p["block"]["certificate"]["signatures"][:2]
    ),
    "a bit of nobody": lambda p: p["block"]["certificate"].update(bitmap="0x1f"),
    "a longer bitmap": lambda p: p["block"]["certificate"].update(bitmap="0x0f00"),
    "a signature": lambda p: p["block"]["certificate"]["signatures"].__setitem__(
        1, _flip(p["block"]["certificate"]["signatures"][1], 40)
    ),
    "a signature more": lambda p: p["block"]["certificate"]["signatures"].append("0x" + "11" * 65),
    "another's signature": lambda p: p["block"]["certificate"]["signatures"].reverse(),
    "a node of the state": lambda p: p["accountProof"].__setitem__(0, _flip(p["accountProof"][0], 50)),
    "a node less": lambda p: p["accountProof"].pop(),
    "a node more": lambda p: p["accountProof"].append(p["accountProof"][0]),
    "a node of the storage": lambda p: p["storageProof"][0]["proof"].__setitem__(
        0, _flip(p["storageProof"][0]["proof"][0], 50)
    ),
    "no storage": lambda p: p["storageProof"][0]["proof"].clear(),
    "garbage": lambda p: p["storageProof"][0]["proof"].__setitem__(0, "0xff"),
    "another task": lambda p: p["fields"].__setitem__(0, "0x" + "22" * 32),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_tampered_with_is_refused_with_a_reason(watched: Watched, what: str) -> None:
    proof = copy.deepcopy(watched.kept)
    TAMPERED[what](proof)
    with pytest.raises(RpcFailure) as refused:
        watched.receipt_of(proof)
    assert from_hex(refused.value.data)[:4] == WRONG, refused.value


@pytest.mark.parametrize(
    "change", [{"index": 0}, {"siblings": []}, {"epoch": 1}, {"siblings": ["0x" + "33" * 32] * 9}]
)
def test_another_place_under_the_root_is_not_held(watched: Watched, change: dict[str, Any]) -> None:
    proof = copy.deepcopy(watched.folded)
    proof["folded"].update(change)
    try:
        held = watched.holds(proof, watched.old.receipt["receipt"])
    except RpcFailure as refused:
        assert from_hex(refused.data)[:4] == WRONG
    else:
        assert not held


def test_nobody_begins_it_twice_or_carries_it_back(watched: Watched) -> None:
    first, *trail = watched.kept["trail"]
    genesis = watched.chain.ledger.genesis_hash
    again = calldata(BEGIN, 1, genesis, from_hex(first["header"]), from_hex(first["sidecar"]))
    for data in (again, calldata(FOLLOW, block_of(trail[0]))):
        with pytest.raises(RpcFailure):
            watched.read(data, "uint256")
