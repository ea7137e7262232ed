"""labora_ methods for those who trust no node: the chain's parameters, and a block with the votes that decided it."""

from dataclasses import asdict
from typing import Any

from primitives import rlp
from rpc.codec import data
from rpc.context import Context
from rpc.errors import SERVER_ERROR, RpcError


def parameters(context: Context) -> dict[str, Any]:
    """The chain's parameters, decimal strings, and their hash, which stands in every block's sidecar."""
    ledger = context.ledger
    numbers = {name: str(value) for name, value in asdict(ledger.params).items()}
    return {"parameters": numbers, "hash": data(ledger.params.hash), "genesis": data(ledger.genesis_hash)}


def certificate(context: Context, block: Any = "latest") -> dict[str, Any]:
    """A block's header and sidecar in RLP, the validator set that decided it, and its commit certificate; block 0 has
    none. Signed are precommits: docs/receipts.md (Proof of one receipt)."""
    number = context.number(block)
    ledger = context.ledger
    header, sidecar, votes = ledger.header(number), ledger.sidecar(number), ledger.certificate(number)
    if header is None or sidecar is None:
        raise RpcError(SERVER_ERROR, f"block {number} is not here")
    members = ledger.validator_set(max(1, number))
    return {
        "number": number,
        "hash": data(header.hash),
        "header": data(rlp.encode(header.fields())),
        "sidecar": data(rlp.encode(sidecar.fields())),
        "validatorSet": data(members.encoded),
        "certificate": None if votes is None else {
            "round": votes.round,
            "bitmap": data(votes.bitmap),
            "signatures": [data(signature) for signature in votes.signatures],
        },
    }  # fmt: skip
