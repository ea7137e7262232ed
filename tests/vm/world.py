"""A small chain for the tests of this room: funded keys, contracts in raw bytecode, blocks one after another."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from primitives import rlp
from primitives.address import HISTORY_STORAGE
from primitives.genesis import GenesisAccount, GenesisSpec, GenesisValidator
from primitives.hashing import ZERO_HASH
from primitives.keys import address_of, sign
from primitives.params import COIN, ChainParams
from primitives.transaction import (
    ACCESS_LIST,
    DYNAMIC_FEE,
    LEGACY,
    SET_CODE,
    Authorization,
    SystemTransaction,
    Transaction,
    system_transaction,
)
from vm import mpt
from vm.executor import BlockEnv, BlockExecutor, Execution
from vm.genesis import build_state
from vm.state import StateReader

PARAMS = ChainParams(block_gas_limit=30_000_000)
GWEI = 10**9
KEYS = [bytes((i + 1,)) * 32 for i in range(6)]
ADDRESSES = [address_of(key) for key in KEYS]
COINBASE = b"\xcc" * 20
GENESIS_HASH = b"\x01" * 32


def code(text: str) -> bytes:
    """Bytecode from hexadecimal with spaces."""
    return bytes.fromhex(text.replace(" ", ""))


STORE = code("5f35 602035 90 55 00")
"""SSTORE(calldata[0] = slot, calldata[32] = value)."""
REVERT_WITH_DATA = code("36 5f 5f 37 36 5f fd")
"""Reverts with its calldata."""
RETURN_INPUT = code("36 5f 5f 37 36 5f f3")
BURN_ALL = code("fe")
LOOP = code("5b 5f 56")
LOG_CALLER = code("33 5f 52 6001 6002 6020 5f a2 00")
"""LOG2(topics 2, 1) with the caller as data."""
FORWARD = code("5f 5f 5f 5f 34 5f35 5a f1 5f 55 00")
"""CALL(calldata[0]) with the value it was sent; slot 0 = whether that succeeded."""
CREATE_FROM_INPUT = code("36 5f 5f 37 36 5f 34 f0 5f 55 00")
"""CREATE(value, calldata); slot 0 = the address."""
CREATE2_FROM_INPUT = code("36 5f 5f 37 5f35 36 5f 34 f5 5f 55 00")
CALL_INPUT_DELEGATE = code("5f 5f 5f 5f 5f35 5a f4 5f 55 00")
"""DELEGATECALL(calldata[0]); slot 0 = whether that succeeded."""
READ_HISTORY = code(f"5f35 5f 52 6020 5f 6020 5f 73{HISTORY_STORAGE.hex()} 5a fa 5f51 5f 55 5f35 40 6001 55 00")
"""Asks the EIP-2935 contract for block calldata[0]: slot 0 = its answer, slot 1 = BLOCKHASH of the same number."""
SELFDESTRUCT_TO_INPUT = code("5f35 ff")
CONTRACTS = {
    bytes((0xC0 + i,)) * 20: contract
    for i, contract in enumerate(
        (
            STORE, REVERT_WITH_DATA, RETURN_INPUT, BURN_ALL, LOOP, LOG_CALLER, FORWARD, CREATE_FROM_INPUT,
            CREATE2_FROM_INPUT, CALL_INPUT_DELEGATE, READ_HISTORY, SELFDESTRUCT_TO_INPUT,
        )
    )
}  # fmt: skip
AT = {contract: address for address, contract in CONTRACTS.items()}


def word(value: int | bytes) -> bytes:
    """32 bytes, numbers and addresses right-aligned."""
    return value.rjust(32, b"\0") if isinstance(value, bytes) else value.to_bytes(32, "big")


def init_code(contract: bytes) -> bytes:
    """Init code that deploys `contract`."""
    return code(f"61{len(contract):04x} 80 600a 5f 39 5f f3") + contract


def spec(params: ChainParams = PARAMS) -> GenesisSpec:
    accounts = [GenesisAccount(address, 1_000 * COIN, 0, b"") for address in ADDRESSES]
    accounts += [GenesisAccount(address, COIN, 1, contract) for address, contract in CONTRACTS.items()]
    validator = GenesisValidator(
        b"\xa1" * 20, b"\xa2" * 20, b"\xa3" * 48, b"\xa4" * 32, b"\xa5" * 20, b"\xa6" * 20, params.bond_min, ()
    )
    return GenesisSpec(params, 0, tuple(accounts), (validator,), (), 0, b"\x05" * 32)


def signed(key: bytes, type_id: int = DYNAMIC_FEE, **fields: Any) -> Transaction:
    """A signed transaction of any type; what is not given is a plain one's."""
    price = fields.pop("gas_price", 2 * GWEI)
    base = Transaction(
        type_id=type_id, chain_id=PARAMS.chain_id, nonce=0, gas=100_000, to=b"\x99" * 20, value=0, data=b"",
        max_fee_per_gas=price, max_priority_fee_per_gas=price if type_id in (LEGACY, ACCESS_LIST) else GWEI,
        access_list=(), authorization_list=(), max_fee_per_blob_gas=0, blob_versioned_hashes=(), y_parity=0, r=0, s=0,
    )  # fmt: skip
    unsigned = replace(base, **fields)
    signature = sign(unsigned.signing_hash, key)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    return replace(unsigned, y_parity=signature[64], r=r, s=s)


def authorize(key: bytes, target: bytes, nonce: int, chain_id: int = PARAMS.chain_id) -> Authorization:
    """A signed EIP-7702 authorization."""
    unsigned = Authorization(chain_id, target, nonce, 0, 0, 0)
    signature = sign(unsigned.signing_hash, key)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    return replace(unsigned, y_parity=signature[64], r=r, s=s)


def set_code(key: bytes, *authorizations: Authorization, **fields: Any) -> Transaction:
    return signed(key, SET_CODE, authorization_list=authorizations, **{"gas": 300_000, **fields})


class World:
    """Blocks executed one on the other, nodes kept in a dict."""

    def __init__(self, params: ChainParams = PARAMS) -> None:
        self.params = params
        self.spec = spec(params)
        self.root, self.db = build_state(self.spec)
        self.number = 0
        self.base_fee = GWEI
        self.parent_hash = ZERO_HASH

    def env(self, **changes: Any) -> BlockEnv:
        env = BlockEnv(
            self.params, GENESIS_HASH, self.number + 1, 1_000 + self.number, COINBASE, b"\x07" * 32, self.base_fee,
            self.parent_hash,
        )  # fmt: skip
        return replace(env, **changes)

    def prologue(self, data: bytes = b"") -> SystemTransaction:
        return system_transaction(self.params.chain_id, self.number + 1, self.params.block_gas_limit, data)

    def block(self, *transactions: Transaction, **changes: Any) -> Execution:
        """Execute without a prologue, store, and go on."""
        executor = BlockExecutor(self.db, self.root, self.env(**changes))
        for transaction in transactions:
            executor.apply(transaction)
        return self.take(executor.finish())

    def take(self, execution: Execution) -> Execution:
        self.db.update(execution.nodes)
        self.root = execution.state_root
        self.number += 1
        self.parent_hash = self.number.to_bytes(32, "little")
        return execution

    @property
    def state(self) -> StateReader:
        return StateReader(self.db, self.root)

    def total(self) -> int:
        """Wei of all accounts together."""
        return sum(mpt.decode_account(leaf)[1] for leaf in leaves(self.db, self.root))


def leaves(db: dict[bytes, bytes], reference: Any) -> Iterator[bytes]:
    """Every value of a trie of hashed keys."""
    node = rlp.decode_list(db[reference]) if isinstance(reference, bytes) else reference
    if len(node) == 17:
        for child in node[:16]:
            if child:
                yield from leaves(db, child)
    elif node[0][0] & 0x20:
        yield node[1]
    else:
        yield from leaves(db, node[1])
