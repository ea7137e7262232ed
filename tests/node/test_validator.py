"""An operator's commands against a real node of one validator: what they send, what they say, what they refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
from node_of_one import BLOCK_MS, against_a_node, newcomer, refused

from genesis.keys import ACCOUNT_KEYS
from node import validator
from node.client import Client
from node.config import DataFolder, NodeConfig
from node.devnet import Options, make_folders
from node.exits import CONFIGURATION, RUNTIME, USAGE, WRONG_CHAIN
from node.validator import Operator
from primitives.keys import address_of
from primitives.params import COIN

POOR_KEY = b"\x07" * 32
CONFIG = NodeConfig(engine="numpy")


def test_the_life_of_an_operator(tmp_path: Path) -> None:
    def commands(client: Client, chain: DataFolder) -> None:
        folder = newcomer(tmp_path / "new", chain.genesis)
        operator = Operator(client, ACCOUNT_KEYS[3])

        for early in (
            lambda: validator.bond(operator, "1"),
            lambda: validator.unbond(operator, "1"),
            lambda: validator.withdraw(operator),
            lambda: validator.serve(operator, folder, CONFIG, None, 1),
            lambda: validator.stop_serving(operator, None),
        ):
            refused(RUNTIME, "is no operator: `labora validator register` comes first", early)
        little = "below this chain's least, 1000"
        refused(USAGE, little, lambda: validator.register(operator, folder, CONFIG, "999", None))
        refused(USAGE, "--payout", lambda: validator.register(operator, folder, CONFIG, None, "0x12"))
        poor = Operator(client, POOR_KEY)
        broke = "has 0 coins and needs 1000 .* send it"
        refused(RUNTIME, broke, lambda: validator.register(poor, folder, CONFIG, None, None))

        payout = "0x" + "5a" * 20
        report = validator.register(operator, folder, CONFIG, None, payout)
        record = operator.record()
        assert record is not None and record["bond"] == 1000 * COIN and record["payout"] == payout
        assert record["hot"] == report.values["hot"].lower() and record["active"]
        assert report.values["bondWei"] == str(1000 * COIN)
        assert report.values["votesFromEpoch"] == report.values["block"] // 32 + 2
        assert "has no coins for gas" in "\n".join(report.lines)
        refused(RUNTIME, "is an operator already", lambda: validator.register(operator, folder, CONFIG, None, None))
        other = Operator(client, ACCOUNT_KEYS[4])
        taken = "register was refused: the account key .* belongs to"
        refused(RUNTIME, taken, lambda: validator.register(other, folder, CONFIG, None, None))

        assert validator.bond(operator, "0.5").values["bondWei"] == str(1000 * COIN + COIN // 2)
        refused(RUNTIME, "has 8[0-9.]+ coins and needs 9000", lambda: validator.bond(operator, "9000"))
        refused(RUNTIME, "is unbonding nothing", lambda: validator.withdraw(operator))
        refused(RUNTIME, "has a bond of 1000.5 coins, not 2000", lambda: validator.unbond(operator, "2000"))
        refused(RUNTIME, "unbond was refused: .* unbond all", lambda: validator.unbond(operator, "1"))
        left = validator.unbond(operator, "0.5").values
        assert left["bondWei"] == str(1000 * COIN) and left["releaseBlock"] == left["block"] + 512
        refused(RUNTIME, "0.5 coins leave in block", lambda: validator.withdraw(operator))

        refused(USAGE, "knows no model 'huge'", lambda: validator.serve(operator, folder, CONFIG, "huge", 1))
        refused(RUNTIME, "serves no model", lambda: validator.stop_serving(operator, None))
        named = client.call("labora_models")[0]["name"]
        assert validator.serve(operator, folder, CONFIG, named, 7).values["macsPerBlock"] == "7"
        refused(RUNTIME, "already, at 7 ", lambda: validator.serve(operator, folder, CONFIG, None, None))
        refused(RUNTIME, "already, at 7 ", lambda: validator.serve(operator, folder, CONFIG, None, 7))
        validator.serve(operator, folder, CONFIG, None, 8)
        assert list(operator.serving().values()) == [8]
        validator.stop_serving(operator, None)
        assert operator.serving() == {}
        none = replace(CONFIG, engine="none")
        refused(CONFIGURATION, "--macs-per-block", lambda: validator.serve(operator, folder, none, None, None))
        measured = validator.serve(operator, folder, CONFIG, None, None).values
        per_block = int(measured["measuredMacsPerSecond"]) * BLOCK_MS // 1000
        assert int(measured["macsPerBlock"]) == per_block // 3, "a third: two others check each task"
        assert list(operator.serving().values()) == [int(measured["macsPerBlock"])]

        validator.unbond(operator, None)
        record = operator.record()
        assert record is not None and record["bond"] == 0 and not record["active"]
        refused(RUNTIME, "has no bond", lambda: validator.unbond(operator, None))
        refused(RUNTIME, "serve was refused: .* bond first", lambda: validator.serve(operator, folder, CONFIG, None, 9))

    against_a_node(tmp_path, commands)


def test_a_folder_without_keys_or_of_another_chain_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    def commands(client: Client, chain: DataFolder) -> None:
        operator = Operator(client, ACCOUNT_KEYS[3])
        follower = newcomer(tmp_path / "follower", chain.genesis, ("node",))
        missing = "has no consensus.json, beacon.json, hot.json: `labora init --validator`"
        refused(CONFIGURATION, missing, lambda: validator.register(operator, follower, CONFIG, None, None))
        nothing = DataFolder(tmp_path / "nothing")
        refused(CONFIGURATION, "labora init", lambda: validator.register(operator, nothing, CONFIG, None, None))
        (other,) = make_folders(Options(1, 999, tmp_path / "other", 0, "numpy", False, None))
        stranger = newcomer(tmp_path / "stranger", other.folder.genesis)
        refused(WRONG_CHAIN, "is on the chain", lambda: validator.register(operator, stranger, CONFIG, None, None))
        assert client.number("eth_getTransactionCount", "0x" + address_of(operator.key).hex(), "pending") == 0

    against_a_node(tmp_path, commands)


@pytest.mark.parametrize(
    ("text", "wei"), [("1", COIN), ("0.5", COIN // 2), ("0.000000000000000001", 1), ("12.25", 12 * COIN + COIN // 4)]
)
def test_amounts_are_exact(text: str, wei: int) -> None:
    assert validator.parse_coins(text) == wei


@pytest.mark.parametrize("text", ["", "0", "0.0", "-1", "1e3", "1.", ".5", "1.0000000000000000001", "1" * 19, "one"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    refused(USAGE, "no amount in coins", lambda: validator.parse_coins(text))
