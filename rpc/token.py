"""Who may call admin_ methods: whoever can sign a token with the node's secret (JWT, RFC 7519, HS256; the clock as in
Ethereum's Engine API). Owns making and checking such tokens; where the secret lies is the node's business.
"""

import base64
import binascii
import hashlib
import hmac
import json

import orjson

AGE_SECONDS_MAX = 60
TOKEN_BYTES_MAX = 1024
HEADER = b'{"alg":"HS256","typ":"JWT"}'


def make_token(secret: bytes, now_s: int) -> str:
    """A token that is good for a minute."""
    signed = _encode(HEADER) + b"." + _encode(json.dumps({"iat": now_s}).encode())
    return (signed + b"." + _encode(_mac(secret, signed))).decode()


def is_authorised(secret: bytes, authorization: bytes, now_s: int) -> bool:
    """Whether the value of an Authorization header carries a fresh token of this secret."""
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer" or len(token) > TOKEN_BYTES_MAX or token.count(b".") != 2:
        return False
    signed, _, mac = token.rpartition(b".")
    header, _, claims = signed.partition(b".")
    try:
        if not hmac.compare_digest(_decode(mac), _mac(secret, signed)):
            return False
        fields, claimed = orjson.loads(_decode(header)), orjson.loads(_decode(claims))
    except (binascii.Error, ValueError):
        return False
    if not isinstance(fields, dict) or fields.get("alg") != "HS256" or not isinstance(claimed, dict):
        return False
    issued = claimed.get("iat")
    return type(issued) is int and abs(now_s - issued) <= AGE_SECONDS_MAX


def _mac(secret: bytes, signed: bytes) -> bytes:
    return hmac.new(secret, signed, hashlib.sha256).digest()


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    """Raises binascii.Error."""
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
