"""Where every wei of a chain is, for all tests that run one (docs/formats.md, Units and money, Invariant).

After each block: all balances together = genesis + minted - burned - base fees; the supply has not risen; and each
system account holds what it owes. Reads states only, of whatever kind: dictionaries, blocks in memory, a node's ledger.
"""

from collections.abc import Iterable, Mapping

from chain.ledger import Committed, Ledger
from primitives import rlp
from primitives.address import COURIER, LEDGER, MARKET, REFEREE, STAKING, TOLERANT
from vm.mpt import decode_account
from vm.system import courier, ledger, market_state, pools, staking, tolerant_state, views
from vm.system.context import ReadContext
from vm.system.layout import u64
from vm.system.referee_state import AUTHOR_ANYONE, DISPUTES, HELD, OPEN, item_number


class Coins:
    """The account of a chain from the state on in which it is begun."""

    def __init__(self, ctx: ReadContext, supply: int) -> None:
        totals = ledger.get_totals(ctx)
        self._start = supply + totals.burned - totals.minted
        self.start = self.supply = supply
        self.base_fees = 0
        """Wei burned as base fees."""

    def check(self, ctx: ReadContext, supply: int, base_fees: int, operators: Iterable[bytes]) -> None:
        """After a block. supply: of all balances in its state; base_fees: wei that its transactions burned; operators:
        everybody who ever registered."""
        self.base_fees += base_fees
        totals = ledger.get_totals(ctx)
        expected = self._start + totals.minted - totals.burned - self.base_fees
        assert supply == expected, f"{supply - expected} wei too many before block {ctx.height}"
        assert supply <= self.supply, f"the supply rose by {supply - self.supply} before block {ctx.height}"
        assert 2 * totals.minted <= totals.burned_fees
        self.supply = supply
        check_accounts(ctx, operators)


def watch(chain: Ledger, operators: Iterable[bytes]) -> None:
    """Check the coins of a node's ledger after every block that it commits from here on."""
    known = list(operators)

    def context() -> views.ViewContext:
        return views.ViewContext(chain.reader(), chain.params, chain.head.number + 1)

    coins = Coins(context(), supply_of(chain.state, chain.head.header.state_root))

    def committed(done: Committed) -> None:
        header, (prologue, *_) = done.block.header, done.receipts
        base_fees = header.base_fee_per_gas * (header.gas_used - prologue.cumulative_gas_used)
        coins.check(context(), supply_of(chain.state, header.state_root), base_fees, known)

    chain.on_commit.append(committed)


def check_accounts(ctx: ReadContext, operators: Iterable[bytes]) -> None:
    """What each system account holds is what it owes."""
    funds = market_state.ESCROWED, market_state.FUND, market_state.AUDIT_RESERVE
    owed = {
        MARKET: sum(each.get(ctx) for each in funds),
        COURIER: courier.prepaid(ctx),
        TOLERANT: tolerant_state.ESCROWED.get(ctx),
        STAKING: pools.rewards_held(ctx) + sum(_stakes(ctx, operator) for operator in operators),
        REFEREE: HELD.get(ctx) + sum(_bonds(ctx, item_number(item)) for item in OPEN.items(ctx, b"")),
        LEDGER: 0,
    }
    held = {account: ctx.balance(account) for account in owed}
    assert held == owed, {account.hex()[-4:]: held[account] - wei for account, wei in owed.items()}


def _stakes(ctx: ReadContext, operator: bytes) -> int:
    """Its bond, what is delegated to it, and all that is leaving, the pools that slashes emptied among it."""
    record = staking.operator(ctx, operator)
    if record is None:
        return 0
    assert record.delegated == pools.pool(ctx, operator).stake
    return record.stake + record.unbonding + sum(pool.stake for pool in pools.all_leaving(ctx, operator))


def _bonds(ctx: ReadContext, number: int) -> int:
    """What a dispute's parties have paid in and may get back; what stakes answer for stays with Staking."""
    dispute = DISPUTES.get(ctx, u64(number))
    assert dispute is not None
    stands_in = dispute.author_bond if dispute.author_kind == AUTHOR_ANYONE else 0
    return stands_in + (0 if dispute.from_stake else dispute.bond)


def supply_of(db: Mapping[bytes, bytes], root: bytes) -> int:
    """Sum of all balances of a state, whoever's, by a walk over its trie that knows nothing of vm.trie."""
    return _supply(db, rlp.decode_list(db[root]))


def _supply(db: Mapping[bytes, bytes], node: list[rlp.Item]) -> int:
    if len(node) == 2:
        path, value = node
        if rlp.as_bytes(path)[0] & 0x20:
            return decode_account(rlp.as_bytes(value))[1]
        return _supply(db, _resolved(db, value))
    return sum(_supply(db, _resolved(db, child)) for child in node[:16] if child)


def _resolved(db: Mapping[bytes, bytes], link: rlp.Item) -> list[rlp.Item]:
    return rlp.decode_list(db[link]) if isinstance(link, bytes) else rlp.as_list(link)
