"""Delegation from the command line, against a real node of one validator."""

from pathlib import Path

from node_of_one import against_a_node, refused

from genesis.keys import ACCOUNT_KEYS, devnet_validator
from node import delegate
from node.client import Client
from node.config import DataFolder
from node.exits import RUNTIME, USAGE
from node.validator import Operator
from primitives.params import COIN


def test_coins_are_put_behind_an_operator_and_taken_back(tmp_path: Path) -> None:
    def commands(client: Client, chain: DataFolder) -> None:
        head, me = Operator(client, devnet_validator(0).operator), Operator(client, ACCOUNT_KEYS[3])
        refused(RUNTIME, "has declared no commission", lambda: delegate.delegate(me, head.name, "5"))
        refused(USAGE, "is no commission", lambda: delegate.commission(head, "101"))
        refused(RUNTIME, "is no operator", lambda: delegate.commission(me, "5"))
        assert delegate.commission(head, "12.5").values["basisPoints"] == 1_250
        refused(USAGE, "is no operator's address", lambda: delegate.delegate(me, "0x12", "5"))
        refused(RUNTIME, "nothing delegated", lambda: delegate.undelegate(me, head.name, None))
        report = delegate.delegate(me, head.name, "7.5")
        assert report.values["delegatedWei"] == str(7 * COIN + COIN // 2)
        (row,) = client.call("labora_validators")["validators"]
        assert (row["delegatedWei"], row["commission"]) == (str(7 * COIN + COIN // 2), 1_250)
        refused(RUNTIME, "7.5 coins are delegated", lambda: delegate.undelegate(me, head.name, "8"))
        assert delegate.undelegate(me, head.name, "2").values["amountWei"] == str(2 * COIN)
        refused(RUNTIME, "nothing to claim; 2 coins leave in block", lambda: delegate.claim(me, head.name))
        assert delegate.undelegate(me, head.name, None).values["amountWei"] == str(5 * COIN + COIN // 2)

    against_a_node(tmp_path, commands)
