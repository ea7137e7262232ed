"""Ethereum's own state vectors (ethereum-tests, execution-spec-tests) through BlockExecutor: state root and logs.

Known differences: none in Prague's and Cancun's rules. Three limits of this chain are lifted or left out here: blob
transactions (type 3), which it refuses, are left out and counted; its bounds on a transaction's bytes and on its share
of the block's gas are lifted. A Cancun case runs with what Prague added taken away again (BLS precompiles,
delegations, the calldata floor).
"""

import copy
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from eth.vm.forks.cancun.opcodes import CANCUN_OPCODES
from eth.vm.opcode_values import SELFDESTRUCT

from primitives import rlp
from primitives import transaction as transaction_rules
from primitives.hashing import EMPTY_KECCAK, keccak
from primitives.params import ChainParams
from primitives.transaction import BLOB, SET_CODE, InvalidTransaction, decode
from vm import executor, mpt
from vm.precompiles import native_precompiles
from vm.state import Computation, State

SUITES = ("ethereum-tests/GeneralStateTests", "execution-spec-tests/state_tests")
SAMPLE_EACH = 150
SLOW = (
    "static_Call50000",
    "Call50000",
    "Call1024",
    "LoopCallsDepthThenRevert",
    "QuadraticComplexity",
    "loopExp",
    "loopMul",
    "CannotBeDosd",
    "run_until_out_of_gas",
)
"""Cases of many seconds each in py-evm; they run on demand."""


class VectorParams(ChainParams):
    """A vector's transaction may use its whole block."""

    @property
    def transaction_gas_max(self) -> int:
        return self.block_gas_limit


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    fork: str
    env: dict[str, str]
    pre: dict[str, Any]
    post: dict[str, Any]


def number(text: str) -> int:
    return int(text, 16)


def data(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def cases(vectors: Path, fork: str) -> Iterator[Case]:
    for suite in SUITES:
        for path in sorted((vectors / suite).rglob("*.json")):
            for name, test in orjson.loads(path.read_bytes()).items():
                for index, post in enumerate(test["post"].get(fork, ())):
                    label = f"{path.relative_to(vectors)}::{name.rsplit('/', 1)[-1]}[{fork}-{index}]"
                    yield Case(label, fork, test["env"], test["pre"], post)


def genesis(pre: dict[str, Any]) -> tuple[bytes, dict[bytes, bytes]]:
    nodes: dict[bytes, bytes] = {}
    accounts = []
    for address, account in pre.items():
        slots = [
            (mpt.storage_key(number(slot)), rlp.encode(rlp.from_uint(number(value))))
            for slot, value in account["storage"].items()
            if number(value)
        ]
        code = data(account["code"])
        code_hash = keccak(code) if code else EMPTY_KECCAK
        nodes[code_hash] = code
        encoded = mpt.encode_account(
            number(account["nonce"]), number(account["balance"]), mpt.build(slots, nodes), code_hash
        )
        accounts.append((keccak(data(address)), encoded))
    return mpt.build(accounts, nodes), nodes


def vector_state(case: Case) -> type[State]:
    """The chain's State as the vector's world has it: no system accounts, invented ancestors, a blob base fee."""
    table = {**Computation.get_precompiles(), **native_precompiles()}
    members: dict[str, Any] = {}
    if case.fork == "Cancun":
        table = {address: function for address, function in table.items() if int.from_bytes(address, "big") <= 0x0A}
        members["opcodes"] = {**CANCUN_OPCODES, SELFDESTRUCT: Computation.opcodes[SELFDESTRUCT]}
    computation = type("VectorComputation", (Computation,), {"_precompiles": table, **members})

    class VectorState(State):
        computation_class = computation

        def get_ancestor_hash(self, block_number: int) -> bytes:
            if not 0 < self.block_number - block_number <= 256:
                return b""
            return keccak(str(block_number).encode())

    return VectorState


def run(case: Case, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """None, or what differs."""
    env = case.env
    params = VectorParams(chain_id=1, block_gas_limit=number(env["currentGasLimit"]))
    root, nodes = genesis(case.pre)
    monkeypatch.setattr(transaction_rules, "TRANSACTION_BYTES_MAX", 2**24)
    monkeypatch.setattr(executor, "state_class", lambda params, genesis_hash: vector_state(case))
    block = executor.BlockExecutor(
        nodes,
        root,
        executor.BlockEnv(
            params=params,
            genesis_hash=bytes(32),
            number=number(env["currentNumber"]),
            timestamp=number(env["currentTimestamp"]),
            coinbase=data(env["currentCoinbase"]),
            mix_hash=number(env.get("currentRandom", "0x0")).to_bytes(32, "big"),
            base_fee_per_gas=number(env["currentBaseFee"]),
            parent_hash=bytes(32),
        ),
    )
    block._state.execution_context._excess_blob_gas = number(env.get("currentExcessBlobGas", "0x0"))
    refused = None
    try:
        transaction = copy.copy(decode(data(case.post["txbytes"])))
        if case.fork == "Cancun":
            transaction.__dict__["floor_gas"] = 0
            if transaction.type_id == SET_CODE:
                raise InvalidTransaction("transaction type not supported: 0x04")
        block.apply(transaction)
    except InvalidTransaction as error:
        refused = str(error)
    expected = case.post.get("expectException")
    if (refused is None) != (expected is None):
        return f"refused: {refused}; expected exception: {expected}"
    execution = block.finish()
    logs = [[log.address, list(log.topics), log.data] for receipt in execution.receipts for log in receipt.logs]
    if keccak(rlp.encode(logs)) != data(case.post["logs"]):
        return "another hash of logs"
    if execution.state_root != data(case.post["hash"]):
        return f"state root {execution.state_root.hex()}, expected {case.post['hash']}"
    return None


def is_blob(case: Case) -> bool:
    return data(case.post["txbytes"])[:1] == bytes((BLOB,)) and "expectException" not in case.post


def check(chosen: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    run_cases = [case for case in chosen if not is_blob(case)]
    failures = {case.name: found for case in run_cases if (found := run(case, monkeypatch)) is not None}
    print(f"{len(run_cases)} cases run, {len(chosen) - len(run_cases)} with blobs left out, {len(failures)} differ")
    assert not failures, "\n".join(f"{name}: {found}" for name, found in failures.items())


@pytest.mark.parametrize("fork", ["Prague", "Cancun"])
def test_a_sample_of_state_vectors(
    fork: str, vectors: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = [case for case in cases(vectors, fork) if not is_blob(case) and not any(word in case.name for word in SLOW)]
    check(rng.sample(quick, SAMPLE_EACH), monkeypatch)


@pytest.mark.demand
@pytest.mark.parametrize("fork", ["Prague", "Cancun"])
def test_all_state_vectors(fork: str, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(list(cases(vectors, fork)), monkeypatch)
