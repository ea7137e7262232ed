"""The state of block 0: a pure function of the genesis specification."""

from eth.vm.forks.prague.constants import HISTORY_STORAGE_CONTRACT_CODE

from primitives import rlp
from primitives.address import HISTORY_STORAGE, SECOND_REFEREE, SYSTEM_ACCOUNTS
from primitives.genesis import GenesisSpec
from primitives.hashing import EMPTY_KECCAK, keccak
from vm import mpt
from vm.system import second_referee
from vm.system.genesis import genesis_balances, genesis_storage

SYSTEM_STUB = b"\xfe"
"""Code of the system accounts: solc's check that there is code passes; run as code it fails (INVALID)."""


def build_state(spec: GenesisSpec) -> tuple[bytes, dict[bytes, bytes]]:
    """State root and nodes: the spec's accounts, the history contract (EIP-2935), the second referee,
    the system accounts."""
    balances = {account.address: account.balance for account in spec.accounts}
    nonces = {account.address: account.nonce for account in spec.accounts}
    codes = {account.address: account.code for account in spec.accounts}
    for address, code in {
        HISTORY_STORAGE: HISTORY_STORAGE_CONTRACT_CODE,
        SECOND_REFEREE: second_referee.code(),
        **dict.fromkeys(SYSTEM_ACCOUNTS, SYSTEM_STUB),
    }.items():
        codes[address], nonces[address] = code, 1
    for address, amount in genesis_balances(spec).items():
        balances[address] = balances.get(address, 0) + amount

    nodes: dict[bytes, bytes] = {}
    storage = genesis_storage(spec)
    assert storage.keys() <= codes.keys()
    accounts = []
    for address in balances.keys() | nonces.keys():
        code = codes.get(address, b"")
        slots = [
            (mpt.storage_key(slot), rlp.encode(rlp.from_uint(value)))
            for slot, value in storage.get(address, {}).items()
            if value
        ]
        nonce, balance = nonces.get(address, 0), balances.get(address, 0)
        if not (nonce or balance or code):
            continue  # EIP-161: an empty account is no account
        code_hash = keccak(code) if code else EMPTY_KECCAK
        if code:
            nodes[code_hash] = code
        accounts.append((keccak(address), mpt.encode_account(nonce, balance, mpt.build(slots, nodes), code_hash)))
    return mpt.build(accounts, nodes), nodes
