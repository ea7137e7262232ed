"""Whatever calldata reaches a system account, by whatever kind of call: it succeeds or fails inside the EVM.

Anything else than a VMError would leave the executor and halt every node at the same block.
"""

import random

from evm_sample import CALL, CALLCODE, DELEGATECALL, STATICCALL, Evm, forwarder
from sample import MODEL, PEOPLE, STRANGER

from primitives.address import SYSTEM_ACCOUNTS
from primitives.merkle import pack_tokens
from primitives.task import Reveal, Submission, Verdict, encode_batch
from vm.system import abi

NUMBERS = (0, 1, 2, 12, 30, 64, 2**16, 2**31, 2**32 - 1, 2**63, 2**64, 2**96, 2**128, 2**255, 2**256 - 1)
ADDRESSES = (*SYSTEM_ACCOUNTS, bytes(20), STRANGER.operator, *(person.operator for person in PEOPLE))
CALLS = 300


def value_of(rng: random.Random, param: abi.Param):
    """Something of the parameter's type, at its bounds more often than not."""
    match param.canonical:
        case "address":
            return rng.choice(ADDRESSES)
        case "bytes32":
            return rng.choice((MODEL, bytes(32), rng.randbytes(32)))
        case "bytes":
            task = rng.randbytes(32)
            batch = [Submission(task, (5,), task, 1, 2, 3, b""), Verdict(task, task), Reveal(task, task, 0)]
            prompts = pack_tokens((5, 6)), pack_tokens((2**32 - 1,))
            others = encode_batch(batch * rng.choice((1, 21, 22))), rng.randbytes(rng.choice((1, 48, 65, 96)))
            return rng.choice((b"", b"\xff" * 9, *prompts, *others))
        case "string":
            return rng.choice(("", "a", "é" * 64, "\0"))
        case "bool":
            return rng.random() < 0.5
        case "bytes32[]":
            return [rng.randbytes(32) for _ in range(rng.choice((0, 1, 8, 300)))]
        case "uint32[]":
            return [rng.choice((0, 1, 2**32 - 1)) for _ in range(rng.choice((0, 1, 16, 17)))]
        case number:
            return rng.choice(NUMBERS) % 2 ** int(number.removeprefix("uint"))


def calldata(rng: random.Random, function: abi.Function) -> bytes:
    """A call that decodes, or one that was cut, lengthened, or had a byte or a word replaced."""
    data = function.encode_call(*(value_of(rng, param) for param in function.inputs))
    place = rng.randrange(len(data))
    match rng.randrange(8):
        case 0:
            return data[:place]
        case 1:
            return data + rng.randbytes(rng.randrange(70))
        case 2:
            return data[:place] + rng.randbytes(1) + data[place + 1 :]
        case 3:
            at = 4 + (place - 4) // 32 * 32
            return data[:at] + rng.choice((2**256 - 1, 2**63, len(data), 32)).to_bytes(32, "big") + data[at + 32 :]
    return data


def test_no_call_whatever_leaves_the_evm(rng):
    functions = [function for account in abi.FUNCTIONS.values() for function in account.values()]
    evm = Evm()
    evm.state.delta_balance(PEOPLE[0].hot, 10**25)
    done = failed = 0
    for _ in range(CALLS):
        function = rng.choice(functions)
        data, value = calldata(rng, function), rng.choice((0, 0, 1, 10**18, 2_000 * 10**18))
        sender = rng.choice([STRANGER.operator, *(person.operator for person in PEOPLE), PEOPLE[0].hot])
        kind = rng.choice((None, None, CALL, CALLCODE, DELEGATECALL, STATICCALL))
        target = function.account if kind is None else evm.install(forwarder(function.account, kind))
        gas = rng.choice((3_000, 50_000, 400_000, 2_000_000))
        total = sum(evm.state.get_balance(address) for address in ADDRESSES)
        try:
            computation = evm.send(target, data, sender=sender, value=0 if kind else value, gas=gas)
        except BaseException:
            print(f"{function.name} by {kind} with {data.hex()}, {value} wei, {gas} gas")
            raise
        done, failed = done + (not computation.is_error), failed + computation.is_error
        if kind is None and not computation.is_error and function.mutability == "view":
            assert sum(evm.state.get_balance(address) for address in ADDRESSES) == total
    assert done > CALLS // 10
    assert failed > CALLS // 10
