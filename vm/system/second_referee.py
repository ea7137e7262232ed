"""The referee in Solidity, called after the native one: whether it says the same of an opened element.

Owns which rules it is asked about, what it is told of an address, and how its answer is read. The contract is
contracts/SolidityReferee.sol, at 0a08 from block 0; what it works out itself is in docs/decisions/016.
"""

import json
from functools import cache
from importlib.resources import files

import eth_abi

from inference.opening import Judgement, Reading, Statement
from inference.ops import Tokens
from primitives.address import REFEREE, SECOND_REFEREE
from primitives.hashing import keccak
from vm.system.context import SystemContext

RULES = frozenset((
    "dot", "sum", "most", "sums", "nothing",  # products and what reductions are made of
    "embed", "exp", "gate",  # tables
    "rank", "ranked", "digit", "choose", "equal", "mass", "scale", "target", "hit", "found",  # sampling
))  # fmt: skip
TABLES = frozenset(("embed", "exp", "gate", "mass"))
"""Rules that read a tensor where a value says: the place is the referee's to find."""
GAS = 250_000
"""What it may use of one message; docs/openings.md has what each rule takes."""
_TYPES = (
    "(bytes32,bytes32,bytes32,bytes32,bytes32,uint256,uint256,uint256)",
    "(bytes32,uint256,uint256,uint256,uint256,string,int256[])",
    "(uint256,uint256,uint256,uint256,string,uint256,uint256)[]",
    "bytes",
)
_SELECTOR = keccak(f"judge({','.join(_TYPES)})".encode())[:4]
_NOT_MINE = keccak(b"NotMine()")[:4]
_OP, _TENSOR, _TOKEN = range(3)


@cache
def code() -> bytes:
    """Its bytecode, as block 0 has it."""
    artifact = json.loads(files("contracts").joinpath("SolidityReferee.json").read_text(encoding="utf-8"))
    return bytes.fromhex(artifact["runtime"].removeprefix("0x"))


def differs(
    ctx: SystemContext, statement: Statement, words: int, operations: bytes, judged: Judgement, number: int,
    element: int, opening: bytes,
) -> str | None:  # fmt: skip
    """Ask it about an element that the native referee has judged: None when it says the same or the rule is not one of
    its own, else what it said. words: of the answer. Charges GAS and gives back what is left of it."""
    if judged.op.rule not in RULES:
        return None
    data = call_data(statement, words, operations, judged, number, element, opening)
    succeeded, answer = ctx.call_static(REFEREE, SECOND_REFEREE, data, GAS)
    if not succeeded:
        return None if answer == _NOT_MINE else f"failed with 0x{answer[:4].hex()}"
    if answer not in (bytes(32), bytes(31) + b"\1"):
        return f"answered {len(answer)} bytes that are no truth value"
    return None if answer[-1] == judged.holds else "says the opposite"


def call_data(
    statement: Statement, words: int, operations: bytes, judged: Judgement, number: int, element: int, opening: bytes
) -> bytes:
    """The message to it."""
    op, task = judged.op, statement.task
    roots = statement.program, operations, statement.prompt_root, statement.output_root, task.seed
    said = (*roots, task.prompt, words, judged.listed)
    asked = op.rule.encode(), number, op.length, op.width, element, op.linear or "", op.constants
    reads = [_slice(reading, op.rule in TABLES) for reading in judged.reads]
    return _SELECTOR + bytes(eth_abi.encode(_TYPES, (said, asked, reads, opening)))


def _slice(reading: Reading, table: bool) -> tuple[int, int, int, int, str, int, int]:
    source, begin, count = reading.slice
    if isinstance(source, int):
        return _OP, source, reading.length, reading.width, "", begin, count
    if isinstance(source, Tokens):
        return _TOKEN, 0, 0, 0, "", begin, count
    assert isinstance(source, str), f"a rule of the second referee reads {source}"
    return _TENSOR, 0, 0, 0, source, 0 if table else begin, count
