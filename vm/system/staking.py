"""Staking: who the operators are, which keys are theirs for ever, what they put at stake, and the way out.

Owns keys, bonds, the list of active operators (those that the next epoch turn may give power), the unbonding queue, and
the taking of stake. What power a bond gets is the turn's business; what a lie costs, and who gets it, is the Referee's.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from consensus.work.delegation import split_slash
from primitives import bls, keys
from primitives.address import REFEREE, STAKING, SYSTEM_ACCOUNTS, ZERO_ADDRESS
from primitives.hashing import ZERO_HASH, keccak
from primitives.params import STAKE_UNIT, ChainParams
from primitives.reasons import Reason
from vm.system import abi, gas, mishaps, pools
from vm.system.context import Call, ReadContext, Refused, SystemContext
from vm.system.layout import AddressList, Scalar, Table, Words, raw, u64, uint

BONDED_UNITS_MAX = 2**52
"""Sum of all bonds in units of 10^15 wei: total power stays below 2^53 whatever the turns do."""
assert BONDED_UNITS_MAX * STAKE_UNIT < 2**112
UNBONDINGS_MAX = 16
"""Open unbondings an operator; a further one joins after a withdrawal."""
OPERATORS_MAX = 128
"""Length of the list in storage; the chain's own validators_max bounds it further."""


class Role(Enum):
    """What a key that signs a registration is for; its value is part of the statement."""

    CONSENSUS = b"consensus"
    BEACON = b"beacon"
    HOT = b"hot"


@dataclass
class Operator:
    """An operator's record. bond: wei at stake; unbonding: wei on the way out, still slashable."""

    active: int = uint(8)
    jailed: int = uint(8)
    bond: int = uint(112)
    """With the next: all stakes together stay below BONDED_UNITS_MAX. What draws ask is one word."""
    delegated: int = uint(112)
    """Wei that others put behind it (vm.system.pools shares it out)."""
    consensus_address: bytes = raw(20)
    registered: int = uint(64)
    hot: bytes = raw(20)
    entered: int = uint(64)
    """Height of its registration or last declaration of a rate; 0 for operators of genesis that never declared."""
    payout: bytes = raw(20)
    node_key: bytes = raw(32)
    beacon_key: bytes = raw(48)
    unbonding: int = uint(128)

    @property
    def stake(self) -> int:
        """Wei that weigh: its own bond and what is delegated to it."""
        return self.bond + self.delegated


@dataclass
class Unbonding:
    """What leaves at a height: wei of an operator's own bond, or shares of what is leaving an operator's pool."""

    amount: int = uint(160)
    release: int = uint(64)
    operator: bytes = raw(20)
    """Whose pool; zeros: the bond of who is in the queue."""
    generation: int = uint(64)


@dataclass
class UnbondingQueue:
    """Places of an operator's open unbondings: first .. first + length - 1."""

    first: int = uint(64)
    length: int = uint(64)


_OPERATORS = Table(STAKING, "operator", Operator)
_ACTIVE = AddressList(STAKING, "active", OPERATORS_MAX)
_KEYS = Words(STAKING, "key")
"""Every consensus address, beacon key, node key and hot address ever registered -> its operator."""
_BONDED = Scalar(STAKING, "bonded")
_UNBONDINGS = Table(STAKING, "unbonding", Unbonding)
_QUEUES = Table(STAKING, "unbondings", UnbondingQueue)
_BOUND = Words(STAKING, "bound")
"""Disputes that an operator's stake answers for: while there is one, nothing of it is paid out."""


# What other rooms ask


def operator(ctx: ReadContext, address: bytes) -> Operator | None:
    """An operator's record; None for a stranger."""
    return _OPERATORS.get(ctx, address)


def operator_by_hot(ctx: ReadContext, hot: bytes) -> bytes | None:
    """Whose work batches this account signs; None when nobody's."""
    owner = _key_owner(ctx, b"account", hot)
    return owner if owner and _OPERATORS.read(ctx, ("hot",), owner)[0] == hot else None


def active_operators(ctx: ReadContext) -> list[bytes]:
    """Operators with at least the minimum bond, in address order; at most validators_max."""
    return _ACTIVE.addresses(ctx)


def is_active(ctx: ReadContext, address: bytes) -> bool:
    """Whether it is among the active operators, jailed or not."""
    return bool(_OPERATORS.read(ctx, ("active",), address)[0])


def payout_of(ctx: ReadContext, address: bytes) -> bytes:
    """Where fees and tips of an operator go."""
    payout: bytes = _OPERATORS.read(ctx, ("payout",), address)[0]
    assert any(payout), address
    return payout


def voting_keys(ctx: ReadContext, address: bytes) -> tuple[bytes, bytes]:
    """Consensus address and beacon key of an operator."""
    consensus_address, beacon_key = _OPERATORS.read(ctx, ("consensus_address", "beacon_key"), address)
    assert any(consensus_address), address
    return consensus_address, beacon_key


def active_bond(ctx: ReadContext, address: bytes) -> int:
    """Wei of stake that count in draws, own and delegated: 0 when jailed, not active or unknown."""
    active, jailed, bond, delegated = _OPERATORS.read(ctx, ("active", "jailed", "bond", "delegated"), address)
    return int(bond + delegated) if active and not jailed else 0


def bond_units(wei: int) -> int:
    """Bonds and powers are counted in units of 10^15 wei."""
    return wei // STAKE_UNIT


def statement(params: ChainParams, genesis_hash: bytes, operator_address: bytes, role: Role) -> bytes:
    """What a key signs to join an operator: keccak("labora/register" | chain id u64 | genesis hash | operator | role).

    Consensus and hot keys sign it with secp256k1 (65 bytes), the beacon key with its possession proof.
    """
    chain_id = params.chain_id.to_bytes(8, "big")
    return keccak(b"labora/register" + chain_id + genesis_hash + operator_address + role.value)


def note_entry(ctx: SystemContext, address: bytes) -> None:
    """An operator declared that it can work, from now on."""
    record = _require(ctx, address)
    record.entered = ctx.height
    _OPERATORS.put(ctx, record, address)


def bind(ctx: SystemContext, address: bytes) -> None:
    """One more dispute that the operator's stake answers for."""
    _BOUND.add(ctx, 1, address)


def unbind(ctx: SystemContext, address: bytes) -> None:
    """One of them is over."""
    _BOUND.add(ctx, -1, address)


def slash(ctx: SystemContext, address: bytes, wei: int, task: bytes, reason: Reason) -> int:
    """Take stake into the Referee's account: of the bond, then of what is unbonding, the newest first; of what others
    delegated, in proportion, then of what they are taking back. The wei taken.

    An operator whose bond falls below the minimum is active no more; what is left it may unbond.
    """
    record = _require(ctx, address)
    own, theirs = split_slash(wei, record.bond, record.delegated)
    taken = own + theirs
    record.bond -= own
    record.delegated -= theirs
    _BONDED.add(ctx, -taken)
    rest, theirs_leaving = split_slash(wei - taken, record.unbonding, pools.leaving(ctx, address))
    pools.slash(ctx, address, theirs, theirs_leaving)
    _take_unbonding(ctx, address, rest)
    record.unbonding -= rest
    taken += rest + theirs_leaving
    if record.active and record.bond < ctx.params.bond_min:
        _deactivate(ctx, address, record, "slashed below the minimum bond")
    _OPERATORS.put(ctx, record, address)
    ctx.transfer(STAKING, REFEREE, taken)
    mishaps.note_slash(ctx, address, task, reason, taken)
    abi.emit(ctx, abi.SLASHED, address, task, reason, taken, record.bond, record.unbonding)
    return taken


def put_genesis_operator(ctx: SystemContext, address: bytes, record: Operator) -> None:
    """An operator of the genesis spec, whose keys are taken as given. Raises Refused on a key given twice."""
    for kind, key in _keys_of(record):
        _claim(ctx, kind, key, address)
    _OPERATORS.put(ctx, record, address)
    _BONDED.add(ctx, record.bond)
    if record.active:
        _ACTIVE.insert(ctx, address)


# Methods


def _register(
    ctx: SystemContext,
    call: Call,
    consensus_address: bytes,
    consensus_signature: bytes,
    beacon_key: bytes,
    beacon_proof: bytes,
    node_key: bytes,
    hot: bytes,
    hot_signature: bytes,
    payout: bytes,
) -> None:
    ctx.charge(gas.REGISTER + _list_gas(ctx), "register")
    sender = call.sender
    if _OPERATORS.get(ctx, sender) is not None:
        raise Refused("registered", f"0x{sender.hex()} is an operator already")
    if call.value < ctx.params.bond_min:
        raise Refused("bond_too_small", f"a bond of {call.value} wei is below the minimum of {ctx.params.bond_min}")
    for name, address in (("consensus", consensus_address), ("hot", hot), ("payout", payout)):
        if address == ZERO_ADDRESS:
            raise Refused("zero_address", f"the {name} address is zero")
    _check_payout(payout)
    if node_key == ZERO_HASH:
        raise Refused("zero_key", "the node key is zero")
    for role, address, signature in (
        (Role.CONSENSUS, consensus_address, consensus_signature),
        (Role.HOT, hot, hot_signature),
    ):
        _check_signature(statement(ctx.params, ctx.genesis_hash, sender, role), role, address, signature)
    _check_possession(statement(ctx.params, ctx.genesis_hash, sender, Role.BEACON), beacon_key, beacon_proof)
    record = Operator(
        consensus_address=consensus_address,
        registered=ctx.height,
        hot=hot,
        entered=ctx.height,
        payout=payout,
        node_key=node_key,
        beacon_key=beacon_key,
    )
    for kind, key in _keys_of(record):
        _claim(ctx, kind, key, sender)
    abi.emit(ctx, abi.REGISTERED, sender, consensus_address, hot, beacon_key, node_key, payout)
    _add_bond(ctx, sender, record, call.value)


def _bond(ctx: SystemContext, call: Call) -> None:
    ctx.charge(gas.BOND + _list_gas(ctx), "bond")
    record = _require(ctx, call.sender)
    if call.value == 0:
        raise Refused("nothing", "a bond of 0 wei")
    if record.bond + call.value < ctx.params.bond_min:
        raise Refused("bond_too_small", f"the bond would be {record.bond + call.value}, below {ctx.params.bond_min}")
    _add_bond(ctx, call.sender, record, call.value)


def _unbond(ctx: SystemContext, call: Call, amount: int) -> None:
    ctx.charge(gas.UNBOND + _list_gas(ctx), "unbond")
    record = _require(ctx, call.sender)
    if not 0 < amount <= record.bond:
        raise Refused("bad_amount", f"cannot unbond {amount} of {record.bond} wei")
    left = record.bond - amount
    if 0 < left < ctx.params.bond_min:
        raise Refused("bond_too_small", f"{left} wei would stay, below {ctx.params.bond_min}: unbond all")
    release = leave(ctx, call.sender, amount)
    record.bond, record.unbonding = left, record.unbonding + amount
    _BONDED.add(ctx, -amount)
    abi.emit(ctx, abi.UNBONDED, call.sender, amount, left, release)
    if left == 0 and record.active:
        _deactivate(ctx, call.sender, record, "unbonded")
    _OPERATORS.put(ctx, record, call.sender)


def _withdraw(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    """An operator's own bond, and what anyone delegated, in the order in which it left."""
    ctx.charge(gas.WITHDRAW + gas.UNBONDING * UNBONDINGS_MAX, "withdraw")
    record = _OPERATORS.get(ctx, call.sender)
    queue = _QUEUES.get(ctx, call.sender) or UnbondingQueue()
    amount, own, waiting = 0, 0, queue.length
    while queue.length:
        due = _UNBONDINGS.get(ctx, call.sender, u64(queue.first))
        assert due is not None
        if due.release > ctx.height:
            break
        owner = call.sender if due.operator == ZERO_ADDRESS else due.operator
        bound = _BOUND.get(ctx, owner)
        if bound:
            if queue.length == waiting:
                raise Refused("bound", f"the stake answers for {bound} disputes: withdraw when they are over")
            break
        if owner == call.sender and due.operator == ZERO_ADDRESS:
            own += due.amount
        else:
            amount += pools.redeem_leaving(ctx, owner, due.generation, due.amount)
        _UNBONDINGS.delete(ctx, call.sender, u64(queue.first))
        queue.first, queue.length = queue.first + 1, queue.length - 1
    if queue.length == waiting:
        raise Refused("nothing_due", "no unbonding has ended")
    _QUEUES.put(ctx, queue, call.sender)
    if record is not None:
        record.unbonding -= own
        _OPERATORS.put(ctx, record, call.sender)
    amount += own
    ctx.transfer(STAKING, call.sender, amount)
    abi.emit(ctx, abi.WITHDRAWN, call.sender, amount)
    return (amount,)


def _set_payout(ctx: SystemContext, call: Call, payout: bytes) -> None:
    ctx.charge(gas.SET_PAYOUT, "setPayout")
    record = _require(ctx, call.sender)
    if payout == ZERO_ADDRESS:
        raise Refused("zero_address", "the payout address is zero")
    _check_payout(payout)
    record.payout = payout
    _OPERATORS.put(ctx, record, call.sender)
    abi.emit(ctx, abi.PAYOUT_CHANGED, call.sender, payout)


def _get_operator(ctx: SystemContext, call: Call, address: bytes) -> tuple[Any, ...]:
    ctx.charge(8 * gas.VIEW_WORD, "getOperator")
    record = _require(ctx, address)
    return (
        (
            address, record.consensus_address, record.beacon_key, record.node_key, record.hot, record.payout,
            record.bond, record.unbonding, bool(record.active), bool(record.jailed), record.registered,
            record.delegated,
        ),
    )  # fmt: skip


def _operator_by_hot(ctx: SystemContext, call: Call, hot: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "operatorByHot")
    return (operator_by_hot(ctx, hot) or ZERO_ADDRESS,)


def _operators(ctx: SystemContext, call: Call) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD, "operators")
    ctx.charge(gas.VIEW_WORD * _ACTIVE.length(ctx), "operators")
    return (active_operators(ctx),)


def _unbondings(ctx: SystemContext, call: Call, address: bytes) -> tuple[Any, ...]:
    ctx.charge(gas.VIEW_WORD * (1 + 2 * UNBONDINGS_MAX), "unbondings")
    rows = []
    for due in open_unbondings(ctx, address):
        wei = due.amount
        if due.operator != ZERO_ADDRESS:
            wei = pools.worth_leaving(ctx, due.operator, due.generation, due.amount)
        rows.append((wei, due.release, due.operator))
    return (rows,)


def open_unbondings(ctx: ReadContext, address: bytes) -> list[Unbonding]:
    """An operator's unbondings that were not withdrawn, oldest first."""
    queue = _QUEUES.get(ctx, address) or UnbondingQueue()
    found = [_UNBONDINGS.get(ctx, address, u64(queue.first + index)) for index in range(queue.length)]
    return [due for due in found if due is not None]


# Inside


def _list_gas(ctx: ReadContext) -> int:
    """Of a look through the active operators and the move of those that follow a newcomer; nothing is read twice."""
    return 2 * gas.LIST_MEMBER * (1 + _ACTIVE.length(ctx))


def _require(ctx: ReadContext, address: bytes) -> Operator:
    record = _OPERATORS.get(ctx, address)
    if record is None:
        raise Refused("unknown_operator", f"0x{address.hex()} is no operator")
    return record


def leave(
    ctx: SystemContext, address: bytes, amount: int, operator: bytes = ZERO_ADDRESS, generation: int = 0
) -> int:
    """Put wei of an own bond, or shares of an operator's leaving pool, into the queue of who leaves. When it ends."""
    queue = _QUEUES.get(ctx, address) or UnbondingQueue()
    if queue.length >= UNBONDINGS_MAX:
        raise Refused("too_many_unbondings", f"{queue.length} unbondings are open: withdraw first")
    release = ctx.height + ctx.params.unbonding_blocks
    _UNBONDINGS.put(ctx, Unbonding(amount, release, operator, generation), address, u64(queue.first + queue.length))
    queue.length += 1
    _QUEUES.put(ctx, queue, address)
    return release


def move_delegated(ctx: SystemContext, address: bytes, wei: int) -> Operator:
    """So much more (or less) is delegated to an operator. Raises Refused when all stakes together are too many."""
    record = _require(ctx, address)
    if bond_units(_BONDED.add(ctx, wei)) > BONDED_UNITS_MAX:
        raise Refused("bonded_max", "the sum of all bonds would pass what powers can count")
    record.delegated += wei
    _OPERATORS.put(ctx, record, address)
    return record


def require(ctx: ReadContext, address: bytes) -> Operator:
    """An operator's record. Raises Refused("unknown_operator")."""
    return _require(ctx, address)


def _take_unbonding(ctx: SystemContext, address: bytes, wei: int) -> None:
    """Take so much of the open unbondings, the newest first; those that are used up stay, with nothing in them."""
    queue = _QUEUES.get(ctx, address) or UnbondingQueue()
    for place in reversed(range(queue.first, queue.first + queue.length)):
        if not wei:
            return
        due = _UNBONDINGS.get(ctx, address, u64(place))
        assert due is not None
        if due.operator != ZERO_ADDRESS:
            continue
        part = min(wei, due.amount)
        due.amount -= part
        wei -= part
        _UNBONDINGS.put(ctx, due, address, u64(place))
    assert not wei


def _add_bond(ctx: SystemContext, address: bytes, record: Operator, amount: int) -> None:
    """Grow a bond, and make its operator active if there is room or a smaller bond to replace."""
    if bond_units(_BONDED.add(ctx, amount)) > BONDED_UNITS_MAX:
        raise Refused("bonded_max", "the sum of all bonds would pass what powers can count")
    record.bond += amount
    abi.emit(ctx, abi.BONDED, address, amount, record.bond)
    if not record.active:
        _activate(ctx, address, record)
    _OPERATORS.put(ctx, record, address)


def _activate(ctx: SystemContext, address: bytes, record: Operator) -> None:
    active = active_operators(ctx)
    if len(active) >= min(ctx.params.validators_max, OPERATORS_MAX):
        smallest = min(active, key=lambda other: (_require(ctx, other).stake, other))
        displaced = _require(ctx, smallest)
        if displaced.stake >= record.stake:
            raise Refused(
                "operators_full", f"{len(active)} operators are active, none with less than {record.stake} wei of stake"
            )
        _deactivate(ctx, smallest, displaced, "displaced by a larger bond")
        _OPERATORS.put(ctx, displaced, smallest)
    record.active = 1
    _ACTIVE.insert(ctx, address)
    abi.emit(ctx, abi.ACTIVATED, address)


def _deactivate(ctx: SystemContext, address: bytes, record: Operator, reason: str) -> None:
    """Out of the list: no power from the next turn on, and its credit ends there. Until then its votes count."""
    record.active = 0
    _ACTIVE.discard(ctx, address)
    abi.emit(ctx, abi.DEACTIVATED, address, reason)


def _keys_of(record: Operator) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"account", record.consensus_address),
        (b"beacon", record.beacon_key),
        (b"node", record.node_key),
        (b"account", record.hot),
    )


def _key_owner(ctx: ReadContext, kind: bytes, key: bytes) -> bytes:
    owner = _KEYS.get(ctx, kind, key)
    return owner.to_bytes(20, "big") if owner else b""


def _claim(ctx: SystemContext, kind: bytes, key: bytes, owner: bytes) -> None:
    """A key belongs to one operator for ever."""
    holder = _key_owner(ctx, kind, key)
    if holder:
        raise Refused("key_taken", f"the {kind.decode('ascii')} key 0x{key.hex()} belongs to 0x{holder.hex()}")
    _KEYS.set_bytes(ctx, owner, kind, key)


def _check_payout(payout: bytes) -> None:
    if payout in SYSTEM_ACCOUNTS:
        raise Refused("system_address", f"0x{payout.hex()} is a system account: nobody could spend what it is paid")


def _check_signature(digest: bytes, role: Role, address: bytes, signature: bytes) -> None:
    try:
        signer = keys.recover(digest, signature)
    except keys.InvalidSignature as error:
        raise Refused("bad_signature", f"the {role.value.decode('ascii')} signature: {error}") from error
    if signer != address:
        raise Refused(
            "bad_signature",
            f"the {role.value.decode('ascii')} signature is by 0x{signer.hex()}, not by 0x{address.hex()}",
        )


def _check_possession(digest: bytes, key: bytes, proof: bytes) -> None:
    try:
        proven = bls.verify_possession(key, digest, proof)
    except bls.InvalidBLS as error:
        raise Refused("bad_beacon_key", f"the beacon key or its proof: {error}") from error
    if not proven:
        raise Refused("bad_beacon_key", f"the proof is not by the beacon key 0x{key.hex()}")


HANDLERS = {
    abi.REGISTER: _register,
    abi.BOND: _bond,
    abi.UNBOND: _unbond,
    abi.WITHDRAW: _withdraw,
    abi.SET_PAYOUT: _set_payout,
    abi.GET_OPERATOR: _get_operator,
    abi.OPERATOR_BY_HOT: _operator_by_hot,
    abi.OPERATORS: _operators,
    abi.UNBONDINGS: _unbondings,
}
