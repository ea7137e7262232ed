"""labora validator estimate: what this machine would earn at today's load and price, and what it would at most.

Owns the sum; the load is counted from the last epochs' receipts, prices and bonds are the chain's, speed is measured
as `labora validator serve` measures it. An estimate, in floats: nothing here reaches the chain.
"""

from dataclasses import dataclass

from node.client import Client, to_hex
from node.config import DataFolder, NodeConfig
from node.exits import RUNTIME, Fatal
from node.post import find_model
from node.receipts import accounts, height_of
from node.recount import Facts
from node.story import coins
from node.validator import Report, measure, parse_coins
from primitives.address import LEDGER, MODELS
from primitives.params import CWU, ChainParams
from vm.system import abi

WINDOW_EPOCHS = 8
WINDOW_BLOCKS_MAX = 2_000
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Market:
    """What the chain says of one model: bonds in wei, work in multiply-adds a block, the price in wei a CWU."""

    price: int
    set_bond: int
    demand: float
    auditors: int
    audit_weight: float


@dataclass(frozen=True)
class Earnings:
    """Expected of a validator, a block: its share of deals, work, how much of its time that takes, wei."""

    share: float
    executed: float
    audited: float
    busy: float
    wei: float
    wei_full: float
    """If there were so much to do that its time is full."""


def expected(params: ChainParams, market: Market, bond: int, per_second: int) -> Earnings:
    """Deals and audits come in proportion to bond, an audit recomputes what was executed; both at the machine's one
    speed. An executor is paid what is neither burned nor the pool's; a verifier the audit weight and its part of it."""
    share = bond / (market.set_bond + bond)
    wanted = market.demand * share
    a_block = per_second * params.block_interval_ms / 1000
    parts = 1 + market.auditors
    busy = wanted * parts / a_block
    done = wanted if busy <= 1 else a_block / parts
    executor = (100 - params.fee_burn_percent - params.fee_pool_percent) / 100
    verifiers = market.auditors * market.audit_weight + params.fee_pool_percent / 100
    per_mac = market.price / CWU * (executor + verifiers)
    return Earnings(
        share, done, done * market.auditors, min(1.0, busy), done * per_mac, a_block / parts * per_mac
    )


def estimate(
    client: Client, folder: DataFolder, config: NodeConfig, model: str | None, bond: str | None, speed: int | None
) -> Report:
    """For a new validator with that bond (None: the chain's least) that serves one model. Raises Fatal."""
    name, identifier = find_model(client, model)
    head = height_of(client)
    facts = Facts(client, head)
    params = facts.params
    per_second = measure(client, identifier, folder, config) if speed is None else speed
    wei = params.bond_min if bond is None else parse_coins(bond)
    window = min(WINDOW_BLOCKS_MAX, WINDOW_EPOCHS * params.epoch_blocks, head)
    if not window:
        raise Fatal(RUNTIME, "the chain has no block yet: there is no load to count")
    found = list(accounts(client, head - window + 1, head))
    paid = [
        account.receipt for account in found
        if account.receipt["class"] == abi.CLASS_PAID and account.receipt["model"] == identifier
    ]  # fmt: skip
    demand = sum(receipt["prefillMacs"] + receipt["decodeMacs"] for receipt in paid) / window
    cost = facts.cost(identifier)
    served = _served_bond(client, identifier)
    market = Market(
        _base_price(client), served, demand, params.auditors, cost.audit_weight_num / cost.audit_weight_den
    )
    sum_of = expected(params, market, wei, per_second)
    blocks_a_day = DAY_SECONDS * 1000 / params.block_interval_ms
    day, full = int(sum_of.wei * blocks_a_day), int(sum_of.wei_full * blocks_a_day)
    lines = (
        f"{name}: this machine does {per_second:,} multiply-adds a second",
        f"load: {len(paid)} paid tasks in the last {window} blocks, {demand / CWU:.6f} CWU a block; price "
        f"{coins(market.price)} coins a CWU",
        f"a bond of {coins(wei)} beside {coins(served)} that serve the model is dealt {100 * sum_of.share:.2f} % of it",
        f"that is {sum_of.executed / CWU:.6f} CWU a block to execute and {sum_of.audited / CWU:.6f} to check, "
        f"{100 * sum_of.busy:.1f} % of the machine's time",
        f"about {coins(day)} coins a day at this load and price, without tips and the gas of messages, which is paid "
        f"back; {coins(full)} if there were always enough to do",
        "a newcomer is dealt work from the epoch after next on; unchecked answers and misses are not paid",
    )
    return Report(lines, {
        "model": to_hex(identifier), "name": name, "macsPerSecond": str(per_second), "bondWei": str(wei),
        "servingBondWei": str(served), "dealShare": sum_of.share, "windowBlocks": window, "paidTasks": len(paid),
        "loadMacsPerBlock": str(int(demand)), "priceWeiPerCwu": str(market.price),
        "executedMacsPerBlock": str(int(sum_of.executed)), "auditedMacsPerBlock": str(int(sum_of.audited)),
        "busy": sum_of.busy, "weiPerDay": str(day), "weiPerDayFull": str(full),
    })  # fmt: skip


def _base_price(client: Client) -> int:
    (price,) = abi.BASE_PRICE.decode_result(client.read_contract(LEDGER, abi.BASE_PRICE.encode_call()))
    return int(price)


def _served_bond(client: Client, model: bytes) -> int:
    """Wei of bond of the members that serve the model now."""
    (values,) = abi.GET_MODEL.decode_result(client.read_contract(MODELS, abi.GET_MODEL.encode_call(model)))
    return int(abi.MODEL.named(values)["servedBond"])
