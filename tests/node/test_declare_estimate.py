"""labora validator declare and estimate: words to numbers, and a sum that adds up."""

import json
from typing import Any

import pytest
from receipt_chain import ReceiptChain

from node.config import DataFolder, NodeConfig
from node.declare import hours_of, in_words
from node.estimate import Market, estimate, expected
from node.exits import Fatal
from primitives.params import COIN, CWU, ChainParams


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("", set()), ("8-18", set(range(8, 18))), ("22-6", {22, 23, 0, 1, 2, 3, 4, 5}), ("3", {3}),
        ("0-24", set()), ("1, 23-24", {1, 23}),
    ],
)  # fmt: skip
def test_hours_in_words(text: str, hours: set[int]) -> None:
    assert hours_of(text) == sum(1 << hour for hour in hours)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8-18", "8:00 to 18:00"),
        ("22-6,12", "12:00 to 13:00, 22:00 to 6:00"),
        ("0-23", "0:00 to 23:00"),
        ("5", "5:00 to 6:00"),
    ],
)
def test_hours_are_said_as_spans(text: str, said: str) -> None:
    hours = [hour for hour in range(24) if hours_of(text) >> hour & 1]
    assert in_words(0, hours, [], [], 0) == [f"works from {said} UTC"]


@pytest.mark.parametrize("text", ["24", "8-25", "8-8", "night", "8-", "-1", "1-2-3"])
def test_what_is_no_hour_is_refused(text: str) -> None:
    with pytest.raises(Fatal, match="--hours"):
        hours_of(text)


def test_earnings_are_a_share_of_the_fees_and_no_more_than_the_machine_can_do() -> None:
    params = ChainParams()
    market = Market(price=10**12, others_bond=30_000 * COIN, demand=4.0 * CWU, auditors=2, audit_weight=0.25)
    found = expected(params, market, 10_000 * COIN, a_block=30 * CWU)
    assert found.share == 0.25 and found.executed == CWU and found.audited == 2 * CWU
    # 75 % of the fee of its quarter, two quarters of all audits at a quarter, and its part of the pool
    assert found.wei == pytest.approx(10**12 * (0.75 + 2 * 0.25 + 0.05))
    assert found.busy == pytest.approx(0.1)
    slow = expected(params, market, 10_000 * COIN, a_block=CWU)
    assert slow.busy == 1.0 and slow.executed == pytest.approx(CWU / 3) and slow.wei == pytest.approx(slow.wei_full)
    idle = expected(params, Market(10**12, 30_000 * COIN, 0.0, 2, 0.25), 10_000 * COIN, CWU)
    assert idle.wei == 0 and idle.wei_full == pytest.approx(slow.wei)


def test_the_load_is_what_was_paid_lately(tmp_path: Any) -> None:
    chain = ReceiptChain(epoch_blocks=16)
    chain.block()
    chain.post()
    chain.run(14)
    told = estimate(chain, DataFolder(tmp_path), None, None, "10000", 10**9)  # type: ignore[arg-type]
    values = told.values
    assert values["paidTasks"] == 1 and values["windowBlocks"] == chain.height
    assert int(values["loadMacsPerBlock"]) > 0 and values["dealShare"] == pytest.approx(0.2)
    assert 0 < int(values["weiPerDay"]) < int(values["weiPerDayFull"])
    assert any("a day at this load and price" in line for line in told.lines)
    assert values["operator"] is None and any("newcomer" in line for line in told.lines)


def test_who_serves_already_reads_its_own_share(tmp_path: Any) -> None:
    chain = ReceiptChain(epoch_blocks=16)
    chain.block()
    folder = DataFolder(tmp_path)
    folder.keys.mkdir()
    (row, *others) = chain.call("labora_validators")["validators"]
    (folder.keys / "hot.json").write_text(json.dumps({"address": row["hot"][2:].lower()}))
    told = estimate(chain, folder, None, None, None, 10**9)  # type: ignore[arg-type]
    assert told.values["operator"] == row["operator"] and told.values["bondWei"] == row["bondWei"]
    bonds = int(row["bondWei"]) + sum(int(other["bondWei"]) for other in others)
    assert told.values["dealShare"] == pytest.approx(int(row["bondWei"]) / bonds)
    assert estimate(chain, folder, None, None, "1000", 10**9).values["operator"] is None  # type: ignore[arg-type]


def test_a_machine_that_cannot_be_measured_is_told_the_option_of_this_command(tmp_path: Any) -> None:
    chain = ReceiptChain(epoch_blocks=16)
    chain.block()
    with pytest.raises(Fatal, match="--macs-per-second"):
        estimate(chain, DataFolder(tmp_path), NodeConfig(engine="none"), None, None, None)  # type: ignore[arg-type]
