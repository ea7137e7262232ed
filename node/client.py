"""A plain JSON-RPC client for the commands that talk to a running node. Knows HTTP and JSON, no method's meaning."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

from node.exits import RUNTIME, Fatal
from rpc.token import make_token

TIMEOUT_SECONDS = 15.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024


class Unreachable(Fatal):
    """Nobody answers there."""

    def __init__(self, url: str, why: object) -> None:
        super().__init__(RUNTIME, f"no node answers at {url} ({why}); is it running? `labora devnet` starts a chain")


class RpcFailure(Fatal):
    """The node refused; the text is its reason."""

    def __init__(self, method: str, code: int, message: str, data: Any) -> None:
        super().__init__(RUNTIME, f"{method}: {message}")
        self.rpc_code, self.message, self.data = code, message, data


class Client:
    """Calls methods of one endpoint."""

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS, secret: bytes = b"") -> None:
        """secret: the node's own, with which admin_ methods may be called."""
        if not url.startswith(("http://", "https://")):
            raise Fatal(RUNTIME, f"{url!r} is no http:// or https:// address")
        self.url = url
        self._timeout_seconds = timeout_seconds
        self._secret = secret
        # A proxy of the environment is not asked: the usual node is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, method: str, *params: Any) -> Any:
        """The method's result. Raises Unreachable, RpcFailure."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}).encode()
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["Authorization"] = f"Bearer {make_token(self._secret, int(time.time()))}"
        request = urllib.request.Request(self.url, body, headers)
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                answer = json.loads(response.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as error:
            raise Unreachable(self.url, f"HTTP {error.code}") from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise Unreachable(self.url, getattr(error, "reason", error)) from error
        if not isinstance(answer, dict):
            raise Unreachable(self.url, "the answer is no JSON-RPC")
        if (failure := answer.get("error")) is not None:
            code, message = failure.get("code", 0), failure.get("message", "unknown error")
            raise RpcFailure(method, code, message, failure.get("data"))
        return answer.get("result")

    def number(self, method: str, *params: Any) -> int:
        """A result that is a hex quantity."""
        return int(self.call(method, *params), 16)

    def read_contract(self, to: bytes, data: bytes) -> bytes:
        """Return data of an eth_call on the latest state."""
        return from_hex(self.call("eth_call", {"to": to_hex(to), "data": to_hex(data)}, "latest"))


def to_hex(data: bytes) -> str:
    """0x-prefixed."""
    return "0x" + data.hex()


def from_hex(text: str) -> bytes:
    """Bytes of 0x-prefixed hex."""
    return bytes.fromhex(text.removeprefix("0x"))
