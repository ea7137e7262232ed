"""JSON-RPC error codes and texts, as geth words them (wallets parse them)."""

from typing import Any

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
SERVER_ERROR = -32000
RESPONSE_TOO_LARGE = -32003
TIMED_OUT = -32002
LIMIT_EXCEEDED = -32005
UNAUTHORIZED = -32001
EXECUTION_REVERTED = 3


class RpcError(Exception):
    """What the caller did wrong, or why it cannot be answered."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_json(self) -> dict[str, Any]:
        """The `error` member of a response."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


def invalid_params(message: str) -> RpcError:
    """-32602 with the reason."""
    return RpcError(INVALID_PARAMS, message)
