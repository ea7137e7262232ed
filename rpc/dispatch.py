"""JSON-RPC 2.0: from the bytes of a request to the bytes of its response. Knows no transport and no method.

A method is a plain function `(context, *params) -> JSON value`; it raises RpcError for whatever its caller did wrong.
Methods marked `heavy` execute code or walk many blocks, those marked `reads` fetch something from the store: the
dispatcher runs them in threads, few and more, so that they never delay a vote. `admin` ones ask for a token.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
import trio

from primitives.transaction import InvalidTransaction
from rpc.errors import (
    INTERNAL,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RESPONSE_TOO_LARGE,
    SERVER_ERROR,
    TIMED_OUT,
    UNAUTHORIZED,
    RpcError,
)

BATCH_MAX = 100
BATCH_BYTES_MAX = 25 * 1024 * 1024
"""Of the answers to a batch (geth's limit): what comes after is answered with an error."""
BATCH_SECONDS_MAX = 30.0
"""For all calls of a batch (geth's limit): a few long ones must not occupy the threads of everybody for minutes."""
HEAVY_THREADS = 2
READING_THREADS = 4

log = structlog.get_logger("rpc")


@dataclass(frozen=True)
class Method:
    """A callable of the interface and how it may be called."""

    call: Callable[..., Any]
    heavy: bool
    reads: bool
    admin: bool
    least: int
    most: int


class Registry:
    """The methods by name."""

    def __init__(self) -> None:
        self.methods: dict[str, Method] = {}

    def add(
        self, name: str, call: Callable[..., Any], heavy: bool = False, reads: bool = False, admin: bool = False
    ) -> None:
        """`call` takes the context and then the positional parameters of the method; without heavy and reads it may be
        a coroutine function."""
        parameters = list(inspect.signature(call).parameters.values())[1:]
        least = sum(1 for parameter in parameters if parameter.default is inspect.Parameter.empty)
        self.methods[name] = Method(call, heavy, reads, admin, least, len(parameters))

    def namespaces(self) -> list[str]:
        """Prefixes of the methods, sorted."""
        return sorted({name.split("_")[0] for name in self.methods})


class Dispatcher:
    """Answers requests by the registry's methods."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.limiter = trio.CapacityLimiter(HEAVY_THREADS)
        self.readers = trio.CapacityLimiter(READING_THREADS)

    async def answer(self, body: bytes, context: Any) -> bytes:
        """The response to a request or a batch; empty when nothing is to be answered (notifications)."""
        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            return _encode(_failure(None, RpcError(PARSE_ERROR, f"parse error: {error}")))
        if not isinstance(request, list):
            response = await self._one(request, context)
            return b"" if response is None else _encode(response)
        if not request:
            return _encode(_failure(None, RpcError(INVALID_REQUEST, "empty batch")))
        if len(request) > BATCH_MAX:
            return _encode(_failure(None, RpcError(INVALID_REQUEST, f"batch too large: {len(request)} > {BATCH_MAX}")))
        answers: list[bytes] = []
        end = trio.current_time() + BATCH_SECONDS_MAX
        for single in request:
            await trio.lowlevel.checkpoint()  # others have their turn between the calls of a long batch
            if sum(map(len, answers)) > BATCH_BYTES_MAX:
                answer = _not_called(single, RpcError(RESPONSE_TOO_LARGE, "response too large"))
            elif trio.current_time() > end:
                answer = _not_called(single, RpcError(TIMED_OUT, "request timed out"))
            else:
                answer = await self._one(single, context)
            if answer is not None:
                answers.append(_encode(answer))
        return b"[" + b",".join(answers) + b"]" if answers else b""

    async def _one(self, request: Any, context: Any) -> dict[str, Any] | None:
        if not isinstance(request, dict):
            return _failure(None, RpcError(INVALID_REQUEST, "invalid request: not an object"))
        identifier = request.get("id")
        if isinstance(identifier, dict | list):
            # What is given back must be encodable, however deep it was nested.
            return _failure(None, RpcError(INVALID_REQUEST, "invalid request: an id is a string, a number or null"))
        try:
            result = await self._call(request, context)
        except RpcError as error:
            response = _failure(identifier, error)
        else:
            response = {"jsonrpc": "2.0", "id": identifier, "result": result}
        return response if "id" in request else None

    async def _call(self, request: dict[str, Any], context: Any) -> Any:
        name, params = request.get("method"), request.get("params", [])
        if not isinstance(name, str):
            raise RpcError(INVALID_REQUEST, "invalid request: no method")
        method = self.registry.methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {name} does not exist/is not available")
        if method.admin and not context.admin:
            raise RpcError(UNAUTHORIZED, f"{name} needs a token of the node's secret (admin.secret in its data folder)")
        if params is None:
            params = []
        if not isinstance(params, list):
            raise RpcError(INVALID_PARAMS, "non-array args")
        while len(params) > method.least and params[-1] is None:
            params = params[:-1]
        if len(params) < method.least:
            raise RpcError(INVALID_PARAMS, f"missing value for required argument {len(params)}")
        if len(params) > method.most:
            raise RpcError(INVALID_PARAMS, f"too many arguments, want at most {method.most}")
        try:
            if method.heavy or method.reads:
                call, limiter = method.call, self.limiter if method.heavy else self.readers
                return await trio.to_thread.run_sync(lambda: call(context, *params), limiter=limiter)
            result = method.call(context, *params)
            return await result if inspect.isawaitable(result) else result
        except InvalidTransaction as error:
            raise RpcError(SERVER_ERROR, str(error)) from error
        except RpcError:
            raise
        except Exception as error:  # the edge: one request must not take the node down
            log.exception("method_failed", method=name)
            raise RpcError(INTERNAL, f"internal error in {name}: {type(error).__name__}") from error


def notification(subscription: str, result: Any) -> bytes:
    """An eth_subscription message."""
    params = {"subscription": subscription, "result": result}
    return _encode({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})


def _failure(identifier: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "error": error.as_json()}


def _not_called(request: Any, error: RpcError) -> dict[str, Any] | None:
    identifier = request.get("id") if isinstance(request, dict) else None
    if isinstance(request, dict) and "id" not in request:
        return None
    scalar = identifier if isinstance(identifier, str | int | float) else None
    return _failure(scalar, error)


def _encode(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value)
