"""Solidity through contracts/ILaboraModels.sol: the example contract, compiled by solc, registers and reads models.

The compiled form lies in tests/clients/ModelDesk.json; where `make clients` has brought solc, it is compared.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from eth_abi import decode, encode
from evm_sample import Evm
from sample import COST, MODEL, STRANGER

from inference import program as cip
from inference.build import random_model
from inference.opening import program_root, read_shape_record, shape_record
from primitives.hashing import keccak
from primitives.task import Kind
from vm.system import abi

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = ROOT / "tests" / "clients"
MANIFEST = "(bytes32,string,string,string,bytes,bytes32,uint32[],uint256)"


class Desk:
    """The contract on the sample chain."""

    def __init__(self) -> None:
        self.evm = Evm()
        artifact = json.loads((CLIENTS / "ModelDesk.json").read_text())
        self.address = self.evm.install(bytes.fromhex(artifact["runtime"][2:]))

    def call(self, signature: str, *arguments: Any) -> Any:
        name, _, types = signature.partition("(")
        kinds = [types[:-1]] if types.startswith("(") else [kind for kind in types[:-1].split(",") if kind]
        data = keccak(f"{name}({types}".encode())[:4] + encode(kinds, arguments)
        return self.evm.send(self.address, data)

    def read(self, signature: str, result: str, *arguments: Any) -> Any:
        done = self.call(signature, *arguments)
        assert not done.is_error, abi.revert_text(done.output)
        return decode([result], done.output)[0]


def manifest_of(seed: int) -> tuple[Any, ...]:
    """A real program's numbers, in the order of the contract's struct."""
    shape = cip.Shape(
        vocabulary=300, context=64, width=32, layers=1, heads=2, kv_heads=1, head_width=16, rotary=16, hidden=64,
        norm_epsilon_q32=42950, layers_per_group=1,
    )  # fmt: skip
    model = random_model(shape, seed, stop=(2, 7))
    manifest = model.manifest
    record = shape_record(shape, manifest.embedding_exponent)
    return (
        model.model_id, manifest.name, "https://example.org", manifest.licence, record, program_root(manifest),
        list(manifest.stop), 10**9,
    )  # fmt: skip


def test_a_contract_registers_a_model_and_reads_it() -> None:
    desk = Desk()
    manifest = manifest_of(41)
    assert desk.read("count()", "uint256") == 1
    done = desk.call(f"bring({MANIFEST})", manifest)
    assert not done.is_error, abi.revert_text(done.output)
    logs = done.get_log_entries()
    registered = abi.MODEL_REGISTERED.decode([topic.to_bytes(32, "big") for topic in logs[0][1]], logs[0][2])
    assert registered["model"] == manifest[0] and registered["name"] == "random-41"
    assert registered["registrant"] == "0x" + desk.address.hex(), "the contract is the registrant"
    assert registered["licence"] == manifest[3]
    assert desk.read("count()", "uint256") == 2
    assert desk.read("broughtBy(bytes32)", "address", manifest[0]) == "0x" + STRANGER.operator.hex()
    cost = read_shape_record(manifest[4]).cost
    assert desk.read("macs(bytes32,uint256,uint256)", "uint256", manifest[0], 5, 3) == cost.execution(5, 3)
    assert desk.read("isServed(bytes32)", "bool", manifest[0]) is False


def test_a_contract_reads_a_model_of_genesis() -> None:
    desk = Desk()
    assert desk.read("macs(bytes32,uint256,uint256)", "uint256", MODEL, 7, 16) == COST.execution(Kind.GENERATE, 7, 16)
    assert desk.read("isServed(bytes32)", "bool", MODEL) is True


def test_the_chains_reasons_reach_the_caller() -> None:
    desk = Desk()
    manifest = manifest_of(42)
    assert not desk.call(f"bring({MANIFEST})", manifest).is_error
    again = desk.call(f"bring({MANIFEST})", manifest)
    assert again.is_error and "is registered already" in (abi.revert_text(again.output) or "")
    hostile = (bytes(31) + b"\1", *manifest[1:4], manifest[4].replace(b"llama|", b"llama|\xff"[:-1] + b"\xff", 1)[:-1])
    refused = desk.call(f"bring({MANIFEST})", (*hostile, *manifest[5:]))
    assert refused.is_error and "vocabulary" in (abi.revert_text(refused.output) or "")
    unknown = desk.call("macs(bytes32,uint256,uint256)", bytes(32), 1, 1)
    assert unknown.is_error and "is not registered" in (abi.revert_text(unknown.output) or "")
    assert desk.read("count()", "uint256") == 2


@pytest.mark.slow
@pytest.mark.skipif(not (CLIENTS / "node_modules" / "solc").exists(), reason="solc is not installed (make clients)")
def test_the_compiled_contracts_are_those_of_their_sources() -> None:
    done = subprocess.run(
        ["node", "compile.mjs", "--check"], cwd=CLIENTS, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
