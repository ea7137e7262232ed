"""Transactions: every type that Prague knows, plus the system transaction 0x7e; decoded once, sender recovered once.

A Transaction carries the attribute names that py-evm's State reads, so that it executes without conversion. Whether a
well-formed transaction may enter a block is vm.validity's question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from primitives import rlp
from primitives.address import MARKET, SYSTEM_ADDRESS
from primitives.hashing import keccak
from primitives.keys import HALF_ORDER, ORDER, InvalidSignature, recover, sign

LEGACY, ACCESS_LIST, DYNAMIC_FEE, BLOB, SET_CODE, SYSTEM = 0, 1, 2, 3, 4, 0x7E
TRANSACTION_BYTES_MAX = 128 * 1024
"""Larger is refused before it is decoded (geth's txMaxSize)."""
UINT64_MAX = 2**64 - 1
UINT256_MAX = 2**256 - 1
CACHED_BYTES_MAX = 4096
CACHED_COUNT_MAX = 8192
"""The decode cache holds at most 32 MiB of raw transactions."""


class InvalidTransaction(ValueError):
    """A transaction that is malformed or that the rules refuse; the text is what its sender reads."""


AccessList = tuple[tuple[bytes, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Authorization:
    """One EIP-7702 authorization: whoever signed it lets its account run the code at `address`."""

    chain_id: int
    address: bytes
    nonce: int
    y_parity: int
    r: int
    s: int

    @cached_property
    def signing_hash(self) -> bytes:
        """keccak(0x05 | rlp[chain id, address, nonce])."""
        return keccak(b"\x05" + rlp.encode([rlp.from_uint(self.chain_id), self.address, rlp.from_uint(self.nonce)]))

    @property
    def signer(self) -> bytes:
        """Address of the authority. Raises InvalidSignature."""
        return _recover(self.signing_hash, self.y_parity, self.r, self.s)


@dataclass(frozen=True)
class Transaction:
    """A signed transaction of type 0 to 4. Amounts in wei; `to` is empty bytes for a creation."""

    type_id: int
    chain_id: int | None
    """None only for a legacy transaction without replay protection (before EIP-155)."""
    nonce: int
    gas: int
    to: bytes
    value: int
    data: bytes
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    """Both equal the gas price for types 0 and 1."""
    access_list: AccessList
    authorization_list: tuple[Authorization, ...]
    max_fee_per_blob_gas: int
    blob_versioned_hashes: tuple[bytes, ...]
    y_parity: int
    r: int
    s: int

    @property
    def gas_price(self) -> int:
        """Gas price of types 0 and 1; for the others the most that is paid."""
        return self.max_fee_per_gas

    @property
    def v(self) -> int:
        """`v` as JSON-RPC shows it: EIP-155 for legacy, else the parity."""
        if self.type_id != LEGACY:
            return self.y_parity
        return self.y_parity + (27 if self.chain_id is None else 35 + 2 * self.chain_id)

    @cached_property
    def raw(self) -> bytes:
        """The EIP-2718 envelope, as wallets send it."""
        signature = [rlp.from_uint(self.v), rlp.from_uint(self.r), rlp.from_uint(self.s)]
        return _envelope(self.type_id, [*_payload(self), *signature])

    @cached_property
    def hash(self) -> bytes:
        """keccak of the envelope."""
        return keccak(self.raw)

    @cached_property
    def signing_hash(self) -> bytes:
        """What the sender signed."""
        tail: list[rlp.Item] = []
        if self.type_id == LEGACY and self.chain_id is not None:
            tail = [rlp.from_uint(self.chain_id), b"", b""]
        return keccak(_envelope(self.type_id, [*_payload(self), *tail]))

    @cached_property
    def sender(self) -> bytes:
        """Address recovered from the signature. Raises InvalidTransaction."""
        try:
            return _recover(self.signing_hash, self.y_parity, self.r, self.s)
        except InvalidSignature as error:
            raise InvalidTransaction(f"invalid sender: {error}") from error

    def effective_tip(self, base_fee: int) -> int:
        """Wei per gas that the proposer gets at this base fee (negative when the fee does not cover it)."""
        return min(self.max_priority_fee_per_gas, self.max_fee_per_gas - base_fee)

    @cached_property
    def intrinsic_gas(self) -> int:
        """Gas charged before execution (EIP-2028, 2930, 3860, 7702)."""
        zeros = self.data.count(0)
        gas = 21_000 + 4 * zeros + 16 * (len(self.data) - zeros)
        if not self.to:
            gas += 32_000 + 2 * ((len(self.data) + 31) // 32)
        gas += sum(2_400 + 1_900 * len(slots) for _, slots in self.access_list)
        return gas + 25_000 * len(self.authorization_list)

    @cached_property
    def floor_gas(self) -> int:
        """The least that is charged in the end (EIP-7623)."""
        zeros = self.data.count(0)
        return 21_000 + 10 * zeros + 40 * (len(self.data) - zeros)

    def validate(self) -> None:
        """py-evm asks for it; everything is checked before (decode, vm.validity)."""


@dataclass(frozen=True)
class SystemTransaction:
    """The block's prologue (type 0x7e): no signature, no fee, derived by every node from the parent state."""

    source_hash: bytes
    gas: int
    data: bytes

    type_id = SYSTEM
    sender = SYSTEM_ADDRESS
    to = MARKET
    value = 0

    @cached_property
    def raw(self) -> bytes:
        """0x7e | rlp[source_hash, from, to, mint, value, gas, is_system, data]."""
        fields = [self.source_hash, self.sender, self.to, b"", b"", rlp.from_uint(self.gas), b"", self.data]
        return b"\x7e" + rlp.encode(fields)

    @cached_property
    def hash(self) -> bytes:
        """keccak of the envelope."""
        return keccak(self.raw)


def system_transaction(chain_id: int, height: int, block_gas_limit: int, data: bytes) -> SystemTransaction:
    """The prologue of the block at `height`."""
    source = keccak(chain_id.to_bytes(32, "big") + height.to_bytes(32, "big"))
    return SystemTransaction(source, block_gas_limit // 8, data)


def decode(raw: bytes) -> Transaction:
    """A user transaction from its EIP-2718 envelope. Raises InvalidTransaction (also for type 0x7e)."""
    if len(raw) > TRANSACTION_BYTES_MAX:
        raise InvalidTransaction(f"oversized data: transaction size {len(raw)}, limit {TRANSACTION_BYTES_MAX}")
    return _decode_cached(raw) if len(raw) <= CACHED_BYTES_MAX else _decode(raw)


def decode_block_item(item: rlp.Item) -> Transaction | SystemTransaction:
    """A transaction as it stands in a block: a legacy one as a list, others as bytes. Raises InvalidTransaction."""
    if not isinstance(item, bytes):
        return decode(rlp.encode(item))
    if item[:1] == b"\x7e":
        return _decode_system(item)
    if item[:1] >= b"\x80":
        raise InvalidTransaction("a legacy transaction must stand in a block as a list")
    return decode(item)


def block_item(transaction: Transaction | SystemTransaction) -> rlp.Item:
    """Inverse of decode_block_item."""
    raw = transaction.raw
    return rlp.decode(raw) if transaction.type_id == LEGACY else raw


def sign_transaction(
    private_key: bytes,
    *,
    chain_id: int,
    nonce: int,
    gas: int,
    to: bytes,
    max_fee_per_gas: int,
    max_priority_fee_per_gas: int,
    value: int = 0,
    data: bytes = b"",
) -> Transaction:
    """A signed EIP-1559 transaction."""
    fields = (DYNAMIC_FEE, chain_id, nonce, gas, to, value, data, max_fee_per_gas, max_priority_fee_per_gas)
    unsigned = Transaction(*fields, (), (), 0, (), 0, 0, 0)
    signature = sign(unsigned.signing_hash, private_key)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    return Transaction(*fields, (), (), 0, (), signature[64], r, s)


def _recover(digest: bytes, y_parity: int, r: int, s: int) -> bytes:
    if not 0 < r < ORDER or not 0 < s <= HALF_ORDER:
        raise InvalidSignature(f"r {r:#x} or s {s:#x} is out of range")
    if y_parity > 1:
        raise InvalidSignature(f"y parity {y_parity} is neither 0 nor 1")
    return recover(digest, r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([y_parity]))


def _envelope(type_id: int, fields: Sequence[rlp.Item]) -> bytes:
    encoded = rlp.encode(fields)
    return encoded if type_id == LEGACY else bytes([type_id]) + encoded


def _payload(tx: Transaction) -> list[rlp.Item]:
    """The unsigned fields in their type's order (EIP-155, 2930, 1559, 4844, 7702)."""
    uint = rlp.from_uint
    if tx.type_id == LEGACY:
        return [uint(tx.nonce), uint(tx.gas_price), uint(tx.gas), tx.to, uint(tx.value), tx.data]
    if tx.type_id == ACCESS_LIST:
        fees = [uint(tx.gas_price)]
    else:
        fees = [uint(tx.max_priority_fee_per_gas), uint(tx.max_fee_per_gas)]
    access: rlp.Item = [[address, [slot.to_bytes(32, "big") for slot in slots]] for address, slots in tx.access_list]
    assert tx.chain_id is not None
    head: list[rlp.Item] = [uint(tx.chain_id), uint(tx.nonce), *fees, uint(tx.gas), tx.to, uint(tx.value), tx.data]
    if tx.type_id == BLOB:
        return [*head, access, uint(tx.max_fee_per_blob_gas), list(tx.blob_versioned_hashes)]
    if tx.type_id == SET_CODE:
        authorizations = [
            [uint(a.chain_id), a.address, uint(a.nonce), uint(a.y_parity), uint(a.r), uint(a.s)]
            for a in tx.authorization_list
        ]
        return [*head, access, authorizations]
    return [*head, access]


@lru_cache(maxsize=CACHED_COUNT_MAX)
def _decode_cached(raw: bytes) -> Transaction:
    return _decode(raw)


def _decode(raw: bytes) -> Transaction:
    if not raw:
        raise InvalidTransaction("empty transaction")
    type_id = raw[0]
    try:
        if type_id >= 0xC0:
            transaction = _decode_legacy(rlp.decode_list(raw, 9))
        elif type_id in (ACCESS_LIST, DYNAMIC_FEE, BLOB, SET_CODE):
            transaction = _decode_typed(type_id, rlp.decode_list(raw[1:]))
        elif type_id == SYSTEM:
            raise InvalidTransaction("transaction type 0x7e is made by the chain itself and cannot be sent")
        else:
            raise InvalidTransaction(f"transaction type not supported: {type_id:#04x}")
    except rlp.RLPError as error:
        raise InvalidTransaction(f"malformed transaction: {error}") from error
    transaction.__dict__["raw"] = raw  # the cached property, known already
    return transaction


def _to(item: rlp.Item) -> bytes:
    to = rlp.as_bytes(item, most=20)
    if len(to) not in (0, 20):
        raise rlp.RLPError(f"`to` has {len(to)} bytes")
    return to


def _decode_legacy(fields: list[rlp.Item]) -> Transaction:
    nonce, price, gas, to, value, data, v_item, r, s = fields
    v = rlp.as_uint(v_item)
    if v in (27, 28):
        chain_id, parity = None, v - 27
    elif v >= 35:
        chain_id, parity = (v - 35) // 2, (v - 35) % 2
    else:
        raise rlp.RLPError(f"v = {v} is neither 27, 28 nor EIP-155")
    gas_price = rlp.as_uint(price)
    return Transaction(
        LEGACY, chain_id, rlp.as_uint(nonce, 64), rlp.as_uint(gas, 64), _to(to), rlp.as_uint(value), rlp.as_bytes(data),
        gas_price, gas_price, (), (), 0, (), parity, rlp.as_uint(r), rlp.as_uint(s),
    )  # fmt: skip


def _decode_typed(type_id: int, fields: list[rlp.Item]) -> Transaction:
    count = {ACCESS_LIST: 11, DYNAMIC_FEE: 12, BLOB: 14, SET_CODE: 13}[type_id]
    if type_id == BLOB and len(fields) == 4:
        raise rlp.RLPError("a blob transaction with its sidecar; this chain carries no blobs")
    if len(fields) != count:
        raise rlp.RLPError(f"expected {count} fields in type {type_id}, found {len(fields)}")
    chain_id, nonce = rlp.as_uint(fields[0]), rlp.as_uint(fields[1], 64)
    priority = rlp.as_uint(fields[2])
    at = 3
    max_fee = priority
    if type_id != ACCESS_LIST:
        max_fee, at = rlp.as_uint(fields[3]), 4
    gas, to, value = rlp.as_uint(fields[at], 64), _to(fields[at + 1]), rlp.as_uint(fields[at + 2])
    data, access_list = rlp.as_bytes(fields[at + 3]), _access_list(fields[at + 4])
    authorizations: tuple[Authorization, ...] = ()
    blob_fee = 0
    blob_hashes: tuple[bytes, ...] = ()
    if type_id == BLOB:
        blob_fee = rlp.as_uint(fields[at + 5])
        blob_hashes = tuple(rlp.as_bytes(item, 32) for item in rlp.as_list(fields[at + 6]))
    elif type_id == SET_CODE:
        authorizations = tuple(_authorization(item) for item in rlp.as_list(fields[at + 5]))
    parity = rlp.as_uint(fields[-3], 8)
    if type_id in (BLOB, SET_CODE) and not to:
        raise rlp.RLPError(f"a type {type_id} transaction cannot create a contract")
    if parity > 1:
        raise rlp.RLPError(f"y parity {parity} is neither 0 nor 1")
    return Transaction(
        type_id, chain_id, nonce, gas, to, value, data, max_fee, priority, access_list, authorizations,
        blob_fee, blob_hashes, parity, rlp.as_uint(fields[-2]), rlp.as_uint(fields[-1]),
    )  # fmt: skip


def _access_list(item: rlp.Item) -> AccessList:
    entries = []
    for entry in rlp.as_list(item):
        address, slots = rlp.as_list(entry, 2)
        numbers = tuple(int.from_bytes(rlp.as_bytes(slot, 32), "big") for slot in rlp.as_list(slots))
        entries.append((rlp.as_bytes(address, 20), numbers))
    return tuple(entries)


def _authorization(item: rlp.Item) -> Authorization:
    chain_id, address, nonce, parity, r, s = rlp.as_list(item, 6)
    return Authorization(
        rlp.as_uint(chain_id), rlp.as_bytes(address, 20), rlp.as_uint(nonce, 64), rlp.as_uint(parity, 8),
        rlp.as_uint(r), rlp.as_uint(s),
    )  # fmt: skip


def _decode_system(raw: bytes) -> SystemTransaction:
    try:
        source, sender, to, mint, value, gas, is_system, data = rlp.decode_list(raw[1:], 8)
        transaction = SystemTransaction(rlp.as_bytes(source, 32), rlp.as_uint(gas, 64), rlp.as_bytes(data))
    except rlp.RLPError as error:
        raise InvalidTransaction(f"malformed system transaction: {error}") from error
    if [sender, to, mint, value, is_system] != [SYSTEM_ADDRESS, MARKET, b"", b"", b""]:
        raise InvalidTransaction("a system transaction with fields that the chain does not set")
    return transaction
