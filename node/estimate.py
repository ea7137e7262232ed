"""labora validator estimate: what this machine would earn at today's load and price, and what it would at most.

Owns the sum; the load is counted from the last epochs' receipts, of what askers pay and of what the commissioned fund
does, prices and bonds are the chain's, speed is measured as `labora validator serve` measures it. An estimate, in
floats: nothing here reaches the chain.
"""

import json
from dataclasses import dataclass
from typing import Any

from node.client import Client, to_hex
from node.config import DataFolder, NodeConfig
from node.declare import terms_in_words
from node.exits import RUNTIME, Fatal
from node.post import find_model
from node.receipts import accounts, height_of, time_of
from node.recount import Facts
from node.story import coins, money
from node.validator import Report, measure, parse_coins
from primitives.address import LEDGER, MODELS
from primitives.params import CWU, ChainParams
from vm.system import abi

WINDOW_EPOCHS = 8
WINDOW_BLOCKS_MAX = 2_000
DAY_SECONDS = 86_400
SECONDS_NEED_BLOCKS = 16
"""Timestamps are whole seconds: of fewer blocks they say too little."""
PAYS = {abi.CLASS_PAID: "paid", abi.CLASS_COMMISSIONED: "commissioned"}
"""Classes of receipts whose work is paid for: a canary earns credit alone."""


@dataclass(frozen=True)
class Market:
    """What the chain says of one model: bonds in wei, work in multiply-adds a block, the price in wei a CWU."""

    price: int
    others_bond: int
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


def expected(params: ChainParams, market: Market, bond: int, a_block: float) -> Earnings:
    """a_block: multiply-adds that the machine does in a block's time. Deals and audits come in proportion to bond, an
    audit recomputes what was executed; both at the machine's one speed. An executor is paid what is neither burned nor
    the pool's; a verifier the audit weight and its part of the pool."""
    share = bond / (market.others_bond + bond)
    wanted = market.demand * share
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
    """For the validator whose folder this is, when it serves the model; else, or with a bond given, for a new one that
    would serve it (bond None: the chain's least). Raises Fatal."""
    name, identifier = find_model(client, model)
    head = height_of(client)
    facts = Facts(client, head)
    params = facts.params
    per_second = measure(client, identifier, folder, config, "--macs-per-second") if speed is None else speed
    window = min(WINDOW_BLOCKS_MAX, WINDOW_EPOCHS * params.epoch_blocks, head)
    if not window:
        raise Fatal(RUNTIME, "the chain has no block yet: there is no load to count")
    found = [
        account.receipt for account in accounts(client, head - window + 1, head)
        if account.receipt["class"] in PAYS and account.receipt["model"] == identifier
    ]  # fmt: skip
    counts = {what: sum(receipt["class"] == number for receipt in found) for number, what in PAYS.items()}
    demand = sum(receipt["prefillMacs"] + receipt["decodeMacs"] for receipt in found) / window
    cost, price = facts.cost(identifier), _base_price(client)
    served = _served_bond(client, identifier)
    own = None if bond is not None else _serving(client, folder, identifier)
    wei = int(own["bondWei"]) if own else params.bond_min if bond is None else parse_coins(bond)
    others = served - wei if own and own["power"] else served
    block_ms = _block_ms(client, params, head, window)
    market = Market(price, others, demand, params.auditors, cost.audit_weight_num / cost.audit_weight_den)
    sum_of = expected(params, market, wei, per_second * block_ms / 1000)
    blocks_a_day = DAY_SECONDS * 1000 / block_ms
    day, full = int(sum_of.wei * blocks_a_day), int(sum_of.wei_full * blocks_a_day)
    floor = ", its floor" if price <= params.base_price_floor else ""
    lines = [
        f"{name}: this machine does {per_second:,} multiply-adds a second, a task at a time",
        f"load: {' and '.join(f'{count} {what}' for what, count in counts.items())} tasks in the last {window} blocks "
        f"of {block_ms / 1000:.2f} s, {demand / CWU:.6f} CWU a block",
        f"price: {price:,} wei a CWU{floor}",
        f"{own['operator'] if own else 'a newcomer'} with a bond of {coins(wei)} beside {coins(others)} that serve the "
        f"model is dealt {100 * sum_of.share:.2f} % of it",
        f"that is {sum_of.executed / CWU:.6f} CWU a block to execute and {sum_of.audited / CWU:.6f} to check, "
        f"{100 * sum_of.busy:.1f} % of the machine's time",
        f"about {money(day)} a day at this load and price, {money(full)} if there were always enough to do",
        "without tips; the gas of messages is paid back; misses and what nobody checked are not paid",
    ]
    if own and (refused := terms_in_words(own["terms"])):
        lines.append(f"less what it declared that it does not take: {'; '.join(refused)}")
    if not own:
        lines.append("a newcomer is dealt work from the epoch after next on")
    return Report(tuple(lines), {
        "model": to_hex(identifier), "name": name, "macsPerSecond": str(per_second), "bondWei": str(wei),
        "operator": own and own["operator"], "othersBondWei": str(others), "dealShare": sum_of.share,
        "windowBlocks": window, "blockMs": round(block_ms), **{f"{what}Tasks": count for what, count in counts.items()},
        "loadMacsPerBlock": str(int(demand)), "priceWeiPerCwu": str(price),
        "executedMacsPerBlock": str(int(sum_of.executed)), "auditedMacsPerBlock": str(int(sum_of.audited)),
        "busy": sum_of.busy, "weiPerDay": str(day), "weiPerDayFull": str(full),
    })  # fmt: skip


def _serving(client: Client, folder: DataFolder, model: bytes) -> dict[str, Any] | None:
    """The operator whose messages this folder's keys sign, when it serves the model."""
    try:
        hot = str(json.loads((folder.keys / "hot.json").read_text())["address"]).lower().removeprefix("0x")
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is no validator's folder
    rows = client.call("labora_validators")["validators"]
    same = (row for row in rows if row["hot"].lower() == "0x" + hot)
    return next((row for row in same if any(each["model"] == to_hex(model) for each in row["serves"])), None)


def _block_ms(client: Client, params: ChainParams, head: int, window: int) -> float:
    """How long a block took lately; what the chain aims at while there are too few to tell."""
    if window < SECONDS_NEED_BLOCKS:
        return params.block_interval_ms
    return max(1, time_of(client, head) - time_of(client, head - window)) * 1000 / window


def _base_price(client: Client) -> int:
    (price,) = abi.BASE_PRICE.decode_result(client.read_contract(LEDGER, abi.BASE_PRICE.encode_call()))
    return int(price)


def _served_bond(client: Client, model: bytes) -> int:
    """Wei of bond of the members that serve the model now."""
    (values,) = abi.GET_MODEL.decode_result(client.read_contract(MODELS, abi.GET_MODEL.encode_call(model)))
    return int(abi.MODEL.named(values)["servedBond"])
