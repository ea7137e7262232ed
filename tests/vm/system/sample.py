"""A small genesis with real keys, and a context that starts from it."""

from memory_context import MemoryContext

from inference.opening import shape_record
from inference.program import Shape, cost
from primitives import bls, keys
from primitives.genesis import GenesisAccount, GenesisModel, GenesisSpec, GenesisValidator
from primitives.hashing import keccak
from primitives.params import COIN, ChainParams
from primitives.task import ModelCost
from vm.system import staking
from vm.system.genesis import genesis_balances, genesis_storage
from vm.system.staking import Role

MODEL = keccak(b"a model")
OTHER_MODEL = keccak(b"another model")
SHAPE = Shape(
    vocabulary=256, context=512, width=16, layers=2, heads=5, kv_heads=1, head_width=250, rotary=0, hidden=20_000,
    norm_epsilon_q32=1, layers_per_group=2,
)  # fmt: skip
RECORD, PROGRAM_ROOT = shape_record(SHAPE, 0), keccak(b"a program")
COST = ModelCost(cost(SHAPE).a, cost(SHAPE).b, cost(SHAPE).c, audit_weight_num=1, audit_weight_den=4)
RATE = 10**10
BOND = 10_000 * COIN
FUND = 10**6 * COIN
WEALTH = 10**7 * COIN


class Person:
    """An operator with all its keys."""

    def __init__(self, name: str) -> None:
        self.operator_key = keccak(b"operator " + name.encode())
        self.consensus_key = keccak(b"consensus " + name.encode())
        self.hot_key = keccak(b"hot " + name.encode())
        self.beacon_secret = keccak(b"beacon " + name.encode())
        self.operator = keys.address_of(self.operator_key)
        self.consensus_address = keys.address_of(self.consensus_key)
        self.hot = keys.address_of(self.hot_key)
        self.beacon_key = bls.public_key(self.beacon_secret)
        self.node_key = keccak(b"node " + name.encode())
        self.payout = keccak(b"payout " + name.encode())[12:]

    def registration(self, params: ChainParams, genesis_hash: bytes, sender: bytes | None = None) -> list:
        """Arguments of Staking.register, all signed for `sender` (the operator itself)."""

        def statement(role: Role) -> bytes:
            return staking.statement(params, genesis_hash, sender or self.operator, role)

        return [
            self.consensus_address,
            keys.sign(statement(Role.CONSENSUS), self.consensus_key),
            self.beacon_key,
            bls.prove_possession(self.beacon_secret, statement(Role.BEACON)),
            self.node_key,
            self.hot,
            keys.sign(statement(Role.HOT), self.hot_key),
            self.payout,
        ]

    def validator(self, bond: int = BOND, serves: tuple = ((MODEL, RATE),)) -> GenesisValidator:
        return GenesisValidator(
            self.operator, self.consensus_address, self.beacon_key, self.node_key, self.hot, self.payout, bond, serves
        )


PEOPLE = [Person(f"validator {i}") for i in range(4)]
STRANGER = Person("stranger")


def sample_spec(params: ChainParams | None = None, people=PEOPLE, bond: int = BOND) -> GenesisSpec:
    return GenesisSpec(
        params=params or ChainParams(),
        genesis_time_ms=1_700_000_000_000,
        accounts=tuple(
            GenesisAccount(person.operator, WEALTH, 0, b"") for person in [*people, STRANGER]
        ),
        validators=tuple(person.validator(bond) for person in people),
        models=(GenesisModel(MODEL, "tiny", RECORD, PROGRAM_ROOT, (0,), 10**9),),
        fund=FUND,
        spec_hash=keccak(b"spec"),
    )


def started(spec: GenesisSpec | None = None) -> MemoryContext:
    """A context in block 1 of the sample chain."""
    spec = spec or sample_spec()
    ctx = MemoryContext(spec.params)
    for account, slots in genesis_storage(spec).items():
        for slot, value in slots.items():
            ctx.storage[account, slot] = value
    ctx.balances.update(genesis_balances(spec))
    for account in spec.accounts:
        ctx.balances[account.address] = account.balance
    return ctx
