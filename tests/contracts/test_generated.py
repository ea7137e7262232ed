"""What contracts/ says is what the code says."""

import json

import pytest

from contracts.generate import HERE, files
from primitives.address import MARKET, SYSTEM_ACCOUNTS
from primitives.hashing import keccak
from vm.system import abi


@pytest.mark.parametrize("name", sorted(files()))
def test_a_file_is_as_generated(name):
    assert (HERE / name).read_text(encoding="utf-8") == files()[name], "run: python -m contracts.generate"


def test_nothing_else_is_in_the_folder_but_what_is_written_by_hand():
    shipped = {path.name for path in HERE.iterdir() if path.suffix in (".sol", ".json")}
    assert {name for name in shipped - {"LaboraConsumer.sol"} if name.startswith(("ILabora", "Labora"))} | {
        f"{name}.json" for name in abi.NAMES.values()
    } == set(files())


def _json_type(entry) -> str:
    if not entry["type"].startswith("tuple"):
        return entry["type"]
    members = ",".join(_json_type(component) for component in entry["components"])
    return f"({members}){entry['type'][len('tuple') :]}"


@pytest.mark.parametrize("account", SYSTEM_ACCOUNTS, ids=abi.NAMES.get)
def test_selectors_and_topics_follow_from_the_json_alone(account):
    entries = json.loads((HERE / f"{abi.NAMES[account]}.json").read_text(encoding="utf-8"))
    signatures = {
        kind: [f"{e['name']}({','.join(_json_type(i) for i in e['inputs'])})" for e in entries if e["type"] == kind]
        for kind in ("function", "event")
    }
    in_abi = [selector for selector, function in abi.FUNCTIONS[account].items() if not function.bare]
    assert [keccak(text.encode())[:4] for text in signatures["function"]] == in_abi
    topics = [topic for topic, event in abi.EVENTS.items() if event.account == account]
    assert [keccak(text.encode()) for text in signatures["event"]] == topics


def test_the_signature_of_post_is_that_of_the_formats_page():
    text = "post(uint8,bytes32,bytes,uint32,uint32,uint32,uint8,uint256,uint256,uint32,uint32)"
    assert abi.POST.signature == text
    assert abi.POST.account == MARKET
    assert abi.POST.mutability == "payable"


def test_web3_reads_the_json():
    web3 = pytest.importorskip("web3")
    market = web3.Web3().eth.contract(abi=json.loads((HERE / "Market.json").read_text(encoding="utf-8")))
    data = abi.OPEN_TASKS.encode_call(b"\x01" * 20)
    assert bytes.fromhex(market.encode_abi("openTasks", args=["0x" + "01" * 20])[2:]) == data
