"""Writes contracts/*.json (ABI) and contracts/ILabora*.sol from vm.system.abi: `python -m contracts.generate`.

A test compares what is in the folder with what this makes, so the files never say anything else than the code.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primitives.address import checksum
from vm.system import abi

HERE = Path(__file__).parent
LICENCE = "// SPDX-License-Identifier: MIT\npragma solidity ^0.8.20;\n"
WIDTH = 110
PURPOSE = {
    "Staking": "Operators, their keys, bonds and the way out.",
    "Models": "Models that tasks may name, and who serves them.",
    "Market": "Inference tasks: posted, dealt, answered, audited, settled.",
    "Ledger": "Credits, compute receipts, voting powers by epoch, totals.",
    "Referee": "Disputes about answers, decided by recomputing one bounded operation.",
    "Beacon": "Randomness by height (the last 8,192 blocks).",
    "Courier": "Sender of callbacks: what waits. LaboraConsumer.sol receives them.",
    "Tolerant": "Float models on any engine: offered, asked, answered, paid on acceptance or silence; never verified.",
}


def files() -> dict[str, str]:
    """File name -> text of everything that is generated."""
    made = {"LaboraTypes.sol": _types()}
    for account, name in abi.NAMES.items():
        made[f"ILabora{name}.sol"] = _interface(account, name)
        made[f"{name}.json"] = json.dumps(abi_json(account), indent=1) + "\n"
    return made


def abi_json(account: bytes) -> list[dict[str, Any]]:
    """The ABI of a system account in the form that every Ethereum library reads: functions, then events."""
    found: list[dict[str, Any]] = []
    for function in _functions(account).values():
        found.append(
            {
                "type": "function",
                "name": function.name,
                "inputs": [_param(param) for param in function.inputs],
                "outputs": [_param(param) for param in function.outputs],
                "stateMutability": function.mutability,
            }
        )
    for event in _events(account):
        inputs = [{**_param(param), "indexed": param.indexed} for param in event.params]
        found.append({"type": "event", "name": event.name, "inputs": inputs, "anonymous": False})
    return found


def main() -> None:
    """Write them all."""
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(name)


def _param(param: abi.Param) -> dict[str, Any]:
    if param.struct is None:
        return {"name": param.name, "type": param.type, "internalType": param.type}
    _, bracket, rest = param.type.partition("[")
    return {
        "name": param.name,
        "type": "tuple" + bracket + rest,
        "internalType": "struct " + param.type,
        "components": [_param(member) for member in param.struct.members],
    }


def _functions(account: bytes) -> dict[bytes, abi.Function]:
    """Those whose calldata is as the ABI has it."""
    return {key: function for key, function in abi.FUNCTIONS[account].items() if not function.bare}


def _events(account: bytes) -> Sequence[abi.Event]:
    return [event for event in abi.EVENTS.values() if event.account == account]


def _types() -> str:
    structs = []
    for struct in abi.STRUCTS.values():
        members = "".join(f"    {member.type} {member.name};\n" for member in struct.members)
        structs.append(f"struct {struct.name} {{\n{members}}}\n")
    return LICENCE + "\n// Generated from vm/system/abi.py.\n\n" + "\n".join(structs)


def _interface(account: bytes, name: str) -> str:
    functions, events = _functions(account), _events(account)
    used = sorted(_structs_of(functions))
    lines = [LICENCE]
    if used:
        lines.append(f'import {{{", ".join(used)}}} from "./LaboraTypes.sol";\n')
    lines.append(f"/// @notice {PURPOSE[name]}\n/// @dev At {checksum(account)}. Generated from vm/system/abi.py.")
    lines.append(f"interface ILabora{name} {{")
    for event in events:
        parts = [f"{param.type}{' indexed' if param.indexed else ''} {param.name}" for param in event.params]
        lines.append(_wrapped(f"    event {event.name}(", parts, ");"))
    for function in functions.values():
        mutability = "" if function.mutability == "nonpayable" else " " + function.mutability
        returned = ", ".join(_located(param, "memory") for param in function.outputs)
        tail = f") external{mutability}" + (f" returns ({returned})" if returned else "") + ";"
        arguments = [_located(param, "calldata") for param in function.inputs]
        lines.append(_wrapped(f"    function {function.name}(", arguments, tail))
    return "\n".join([*lines, "}"]) + "\n"


def _structs_of(functions: Mapping[bytes, abi.Function]) -> set[str]:
    params = [param for function in functions.values() for param in (*function.inputs, *function.outputs)]
    return {param.struct.name for param in params if param.struct is not None}


def _located(param: abi.Param, place: str) -> str:
    return f"{param.type}{' ' + place if param.is_dynamic else ''} {param.name}".strip()


def _wrapped(head: str, parts: Sequence[str], tail: str) -> str:
    line = head + ", ".join(parts) + tail
    if len(line) <= WIDTH:
        return line
    return head + "\n" + ",\n".join("        " + part for part in parts) + "\n    " + tail


if __name__ == "__main__":
    main()
