"""The proof of one receipt: believed with a genesis hash alone, or a validator set's; anything else is refused."""

import copy
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from receipt_chain import ReceiptChain

from node.client import from_hex, to_hex
from node.exits import Fatal
from node.prove import prove
from node.receipts import accounts, as_json
from vm.system import abi

ROOT = Path(__file__).resolve().parents[2]


def stand_alone() -> Any:
    """docs/verify_receipt.py, which imports nothing of this program."""
    spec = importlib.util.spec_from_file_location("verify_receipt", ROOT / "docs" / "verify_receipt.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VERIFIER = stand_alone()


@pytest.fixture(scope="module")
def chain() -> ReceiptChain:
    """Five epochs; the state has forgotten the receipts of the first two."""
    made = ReceiptChain(epoch_blocks=8, receipts_kept_epochs=2, canaries_per_validator=1)
    made.block()
    made.post()
    made.run(12)
    made.post(most=3)
    made.run(28)
    return made


def proof_of(chain: ReceiptChain, paid: int, trusted: bytes | None = None) -> dict[str, Any]:
    found = [a for a in accounts(chain, 0, chain.height) if a.receipt["class"] == abi.CLASS_PAID]  # type: ignore[arg-type]
    made = prove(chain, found[paid], trusted)  # type: ignore[arg-type]
    return json.loads(json.dumps(made))


@pytest.fixture(scope="module")
def folded(chain: ReceiptChain) -> dict[str, Any]:
    return proof_of(chain, 0)


@pytest.fixture(scope="module")
def kept(chain: ReceiptChain) -> dict[str, Any]:
    last = list(accounts(chain, 0, chain.height))[-1]  # type: ignore[arg-type]
    return json.loads(json.dumps(prove(chain, last, None)))  # type: ignore[arg-type]


def test_a_receipt_in_state_and_one_under_an_epochs_root_are_believed(
    chain: ReceiptChain, kept: dict[str, Any], folded: dict[str, Any]
) -> None:
    assert kept["folded"] is None and folded["folded"]["epoch"] < 3
    for proof in (kept, folded):
        found = VERIFIER.check(proof, chain.ledger.genesis_hash)
        account = next(
            a for a in accounts(chain, 0, chain.height) if to_hex(a.task) == found["task"]  # type: ignore[arg-type]
        )
        assert found["receipt"] == to_hex(account.receipt["receipt"]) == as_json(account)["receipt"]
        assert int(found["decodeMacs"]) == account.receipt["decodeMacs"]
        assert [name for name in found if name != "receipt"] == [
            param.name for param in abi.RECEIPT.params if param.name != "receipt"
        ]


def test_a_trusted_set_shortens_the_trail(chain: ReceiptChain, kept: dict[str, Any]) -> None:
    now = chain.ledger.validator_set(chain.height).hash
    short = proof_of(chain, 0, now)
    assert short["trail"] == [] and len(kept["trail"]) == 1 + (chain.height - 1) // 8
    assert VERIFIER.check(short, chain.ledger.genesis_hash, now)["receipt"]
    with pytest.raises(VERIFIER.Wrong):
        VERIFIER.check(short, chain.ledger.genesis_hash, bytes(32))
    with pytest.raises(Fatal, match="no epoch"):
        proof_of(chain, 0, bytes(32))


def _flip(text: str, at: int = -1) -> str:
    data = bytearray(from_hex(text))
    data[at] ^= 1
    return to_hex(bytes(data))


def _edit(*path: Any, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(proof: dict[str, Any]) -> None:
        at: Any = proof
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = change(at[path[-1]])

    return apply


NAMES = [param.name for param in abi.RECEIPT.params if param.name != "receipt"]
TAMPERED = {
    "another fee": _edit("fields", NAMES.index("fee"), change=lambda v: str(int(v) + 1)),
    "another executor": _edit("fields", NAMES.index("executor"), change=lambda v: "0x" + "11" * 20),
    "another time": _edit("fields", NAMES.index("totalMs"), change=lambda v: "1"),
    "a verifier less": _edit("fields", NAMES.index("verifiers"), change=lambda v: v[:-1]),
    "a field less": _edit("fields", change=lambda v: v[:-1]),
    "another header": _edit("block", "header", change=lambda v: _flip(v, 60)),
    "another sidecar": _edit("block", "sidecar", change=_flip),
    "another set": _edit("block", "validatorSet", change=_flip),
    "another round": _edit("block", "certificate", "round", change=lambda v: v + 1),
    "a spoiled signature": _edit("block", "certificate", "signatures", 0, change=lambda v: _flip(v, 5)),
    "a signature for another": _edit("block", "certificate", "signatures", change=lambda v: v[1:] + v[:1]),
    "a vote counted twice": _edit("block", "certificate", "signatures", change=lambda v: [*v, v[0]]),
    "a spare bit": _edit("block", "certificate", "bitmap", change=lambda v: "0x1f"),
    "a node of the state": _edit("accountProof", -1, change=lambda v: _flip(v, 40)),
    "no state": _edit("accountProof", change=lambda v: []),
    "a node of the storage": _edit("storageProof", 0, "proof", 0, change=lambda v: _flip(v, 9)),
    "another slot": _edit("storageProof", 0, "slot", change=_flip),
    "a link of the trail": _edit("trail", 1, "certificate", "signatures", 1, change=lambda v: _flip(v, 5)),
    "no link of the trail's end": _edit("trail", -1, "sidecar", change=lambda v: _flip(v, 80)),
    "another beginning": _edit("trail", 0, "header", change=lambda v: _flip(v, 10)),
    "another chain id": _edit("chainId", change=lambda v: v + 1),
}


@pytest.mark.parametrize("what", TAMPERED)
@pytest.mark.parametrize("which", ["kept", "folded"])
def test_what_was_tampered_with_is_refused(
    chain: ReceiptChain, kept: dict[str, Any], folded: dict[str, Any], which: str, what: str
) -> None:
    proof = copy.deepcopy(kept if which == "kept" else folded)
    TAMPERED[what](proof)
    with pytest.raises((VERIFIER.Wrong, ValueError, IndexError, VERIFIER.rlp.exceptions.RLPException)):
        VERIFIER.check(proof, chain.ledger.genesis_hash)


def folded_lies() -> Iterator[tuple[str, Any]]:
    yield "index", lambda v: v + 1
    yield "count", lambda v: v + 1
    yield "epoch", lambda v: v + 1
    yield "siblings", lambda v: v[:-1]
    yield "siblings", lambda v: [*v, v[0]]


@pytest.mark.parametrize(("name", "change"), list(folded_lies()))
def test_another_place_under_the_root_is_refused(
    chain: ReceiptChain, folded: dict[str, Any], name: str, change: Callable[[Any], Any]
) -> None:
    proof = copy.deepcopy(folded)
    proof["folded"][name] = change(proof["folded"][name])
    with pytest.raises((VERIFIER.Wrong, IndexError)):
        VERIFIER.check(proof, chain.ledger.genesis_hash)


def test_votes_of_two_thirds_are_not_enough(chain: ReceiptChain, kept: dict[str, Any]) -> None:
    """Two of four equal votes, each one sound."""
    proof = copy.deepcopy(kept)
    certificate = proof["block"]["certificate"]
    certificate["bitmap"], certificate["signatures"] = "0x03", certificate["signatures"][:2]
    with pytest.raises(VERIFIER.Wrong, match="two thirds"):
        VERIFIER.check(proof, chain.ledger.genesis_hash)


def test_another_genesis_is_refused(kept: dict[str, Any]) -> None:
    with pytest.raises(VERIFIER.Wrong, match="genesis"):
        VERIFIER.check(kept, bytes(32))


def test_the_script_imports_nothing_of_this_program() -> None:
    source = (ROOT / "docs" / "verify_receipt.py").read_text()
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"json", "sys", "rlp", "coincurve", "eth_hash"}
