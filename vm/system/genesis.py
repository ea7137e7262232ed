"""What the system accounts hold in block 0: storage and balances, a pure function of the genesis spec."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from primitives.address import MARKET, STAKING, SYSTEM_ACCOUNTS
from primitives.genesis import GenesisSpec
from primitives.hashing import ZERO_HASH
from primitives.params import ChainParams
from vm.system import beacon, ledger, market_commission, market_state, models, staking, turn
from vm.system.context import Refused


class InvalidGenesis(ValueError):
    """A spec that no chain can start from; the text says why."""


def genesis_storage(spec: GenesisSpec) -> dict[bytes, dict[int, int]]:
    """Account -> slot -> word, no zeros. Raises InvalidGenesis."""
    ctx = _GenesisContext(spec.params)
    try:
        _fill(ctx, spec)
    except Refused as refusal:
        raise InvalidGenesis(refusal.text) from refusal
    return ctx.storage


def genesis_balances(spec: GenesisSpec) -> dict[bytes, int]:
    """Wei of the system accounts: bonds in Staking, the commissioned fund in Market."""
    return {STAKING: sum(validator.bond for validator in spec.validators), MARKET: spec.fund}


def _fill(ctx: "_GenesisContext", spec: GenesisSpec) -> None:
    params = spec.params
    if not 0 < len(spec.validators) <= min(params.validators_max, staking.OPERATORS_MAX):
        raise InvalidGenesis(f"{len(spec.validators)} validators; a chain starts with 1 to {params.validators_max}")
    if turn.gas_most(params) > params.prologue_gas * 3 // 4:
        raise InvalidGenesis(
            f"an epoch turn may need {turn.gas_most(params)} gas: over 3/4 of the prologue's {params.prologue_gas}"
        )
    beacon.store_genesis(ctx, spec.spec_hash)
    for model in spec.models:
        if models.model(ctx, model.model_id) is not None:
            raise InvalidGenesis(f"model 0x{model.model_id.hex()} is listed twice")
        models.put_genesis_model(ctx, model)
    members: list[ledger.Member] = []
    for validator in sorted(spec.validators, key=lambda validator: validator.operator):
        if validator.bond < params.bond_min:
            raise InvalidGenesis(
                f"0x{validator.operator.hex()} bonds {validator.bond} wei, below the minimum of {params.bond_min}"
            )
        if staking.operator(ctx, validator.operator) is not None:
            raise InvalidGenesis(f"0x{validator.operator.hex()} is a validator twice")
        record = staking.Operator(
            consensus_address=validator.consensus_address,
            active=1,
            hot=validator.hot,
            payout=validator.payout,
            bond=validator.bond,
            node_key=validator.node_key,
            beacon_key=validator.beacon_key,
        )
        staking.put_genesis_operator(ctx, validator.operator, record)
        for model_id, macs_per_block in validator.serves:
            models.put_serving(ctx, validator.operator, model_id, macs_per_block)
        units = staking.bond_units(validator.bond)
        members.append(ledger.Member(validator.operator, units, units, units, 0))
    ledger.keep_credited(ctx, [member.operator for member in members])
    for epoch in (0, 1):
        fixed = ledger.put_set(ctx, epoch, members, spec.spec_hash)
    delay = turn.genesis_delay(params, fixed, spec.spec_hash)
    for epoch in (0, 1):
        ledger.put_audit_delay(ctx, epoch, delay)
    ledger.put_base_price(ctx, params.base_price_start)
    ledger.put_capacity(ctx, models.set_capacity(ctx))
    market_state.FUND.set(ctx, spec.fund)
    for batch in spec.batches:
        market_commission.put_batch(ctx, batch)


class _GenesisContext:
    """The writes of block 0: storage only; logs and gas do not exist yet."""

    def __init__(self, params: ChainParams) -> None:
        self.params = params
        self.genesis_hash = ZERO_HASH
        self.height = 0
        self.timestamp = 0
        self.mix = ZERO_HASH
        self.base_fee = params.base_fee_initial
        self.gas_left = 0
        self.storage: dict[bytes, dict[int, int]] = {account: {} for account in SYSTEM_ACCOUNTS}

    def get(self, account: bytes, slot: int) -> int:
        return self.storage[account].get(slot, 0)

    def set(self, account: bytes, slot: int, value: int) -> None:
        if value:
            self.storage[account][slot] = value
        else:
            self.storage[account].pop(slot, None)

    def log(self, account: bytes, topics: Sequence[int], data: bytes) -> None:
        """Block 0 has no receipts."""

    def charge(self, gas: int, what: str) -> None:
        """Block 0 costs nobody anything."""

    def call_out(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, int]:
        raise AssertionError("nobody's code runs in block 0")

    def call_static(self, sender: bytes, target: bytes, data: bytes, gas: int) -> tuple[bool, bytes]:
        raise AssertionError("nobody's code runs in block 0")

    def balance(self, account: bytes) -> int:
        raise AssertionError("block 0's balances are the spec's")

    def transfer(self, source: bytes, target: bytes, wei: int) -> None:
        raise AssertionError("block 0's balances are the spec's")

    def mint(self, target: bytes, wei: int) -> None:
        raise AssertionError("block 0's balances are the spec's")

    def burn(self, source: bytes, wei: int) -> None:
        raise AssertionError("block 0's balances are the spec's")

    @contextmanager
    def frame(self, gas_max: int | None = None) -> Iterator[None]:
        yield
