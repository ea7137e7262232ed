"""What models this node has, and the operator's say over them."""

import base64
from typing import Any

from rpc.codec import read_hash, read_quantity
from rpc.context import Context
from rpc.errors import invalid_params

ADDRESS_CHARS_MAX = 512


def local_models(context: Context) -> list[dict[str, Any]]:
    """Every model that is here or on its way: state, bytes, and why it is not served."""
    return context.backend.local_models()


def model_manifest(context: Context, model: Any) -> str | None:
    """The manifest of a model that is here, whose keccak is the model's id; None when it is not here."""
    return context.backend.model_manifest(read_hash(model, "model"))


def model_tokenizer(context: Context, model: Any, start: Any = "0x0") -> dict[str, Any] | None:
    """A piece of the tokenizer.json of a model that is here, from a byte on; None when there is none."""
    found = context.backend.model_tokenizer(read_hash(model, "model"), read_quantity(start, "start", 32))
    if found is None:
        return None
    total, piece = found
    return {"bytes": total, "data": base64.b64encode(piece).decode()}


def fetch_model(context: Context, model: Any, peer: Any = None) -> bool:
    """Begin to fetch a model from peers, from `id@host:port` among them; true. labora_localModels shows how far it
    is."""
    if peer is not None and (not isinstance(peer, str) or len(peer) > ADDRESS_CHARS_MAX):
        raise invalid_params("peer is not id@host:port")
    context.backend.fetch_model(read_hash(model, "model"), peer)
    return True


async def remove_model(context: Context, model: Any) -> int:
    """End a model's fetch and delete what is here of it; the bytes freed."""
    return await context.backend.remove_model(read_hash(model, "model"))
