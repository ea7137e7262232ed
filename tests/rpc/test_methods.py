"""What wallets read and send: each method against a real chain, with geth's words for what is wrong."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS
from primitives.address import MARKET, checksum, created_by
from primitives.hashing import keccak
from primitives.transaction import sign_transaction
from rpc import events, filters, node_info
from rpc.errors import RpcError
from rpc.events import Session, Subscription
from rpc.logs import read_criteria
from vm.system import abi

Ask = Callable[..., Any]
ALICE, BOB = checksum(ACCOUNT_ADDRESSES[0]), checksum(ACCOUNT_ADDRESSES[1])
# Emits LOG1(topic = calldata word 0, data = that word) and returns it; deployed by code that copies it.
LOGGER = bytes.fromhex("60003560005260003560206000a160206000f3")
DEPLOY_LOGGER = bytes.fromhex(f"60{len(LOGGER):02x}80600b6000396000f3") + LOGGER
REVERTER = bytes.fromhex("60206000fd")


def test_chain_facts(host: Any, ask: Ask) -> None:
    host.produce()
    assert ask("eth_chainId") == "0x7a69"
    assert ask("net_version") == "31337"
    assert ask("eth_blockNumber") == "0x1"
    assert ask("eth_syncing") is False
    assert ask("eth_accounts") == []
    assert ask("web3_sha3", "0x68656c6c6f20776f726c64").startswith("0x47173285")
    assert {"eth", "net", "web3", "labora", "txpool", "rpc"} <= set(ask("rpc_modules"))


def test_a_transfer_from_pool_to_receipt(host: Any, ask: Ask) -> None:
    sent = host.send(to=ACCOUNT_ADDRESSES[1], value=10**18)
    shown = ask("eth_getTransactionByHash", "0x" + sent.hash.hex())
    assert shown["blockHash"] is None and shown["from"] == ALICE and shown["nonce"] == "0x0"
    assert ask("eth_getTransactionReceipt", "0x" + sent.hash.hex()) is None
    assert ask("eth_getTransactionCount", ALICE, "latest") == "0x0"
    assert ask("eth_getTransactionCount", ALICE, "pending") == "0x1"
    assert ask("txpool_status") == {"pending": "0x1", "queued": "0x0"}
    before = int(ask("eth_getBalance", BOB, "latest"), 16)
    block = host.produce().block
    receipt = ask("eth_getTransactionReceipt", "0x" + sent.hash.hex())
    assert receipt["status"] == "0x1" and receipt["gasUsed"] == "0x5208" and receipt["transactionIndex"] == "0x1"
    assert receipt["blockHash"] == "0x" + block.hash.hex()
    assert int(ask("eth_getBalance", BOB, "latest"), 16) == before + 10**18
    assert int(ask("eth_getBalance", BOB, "0x0"), 16) == before
    assert ask("eth_getTransactionCount", ALICE) == "0x1"
    assert ask("eth_getBlockReceipts", "latest")[1] == receipt
    shown = ask("eth_getBlockByNumber", "0x1", True)
    assert shown["transactions"][1]["hash"] == receipt["transactionHash"]
    assert shown["size"] == hex(len(block.stored))
    assert ask("eth_getBlockByHash", shown["hash"])["transactions"][1] == receipt["transactionHash"]
    assert ask("eth_getTransactionByBlockNumberAndIndex", "0x1", "0x1")["hash"] == receipt["transactionHash"]
    assert ask("eth_getRawTransactionByHash", receipt["transactionHash"]) == "0x" + sent.raw.hex()


def test_what_filters_hold_is_bounded_in_all(host: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "VALUES_MAX", 5)
    monkeypatch.setattr(events, "VALUES_MAX", 5)
    word = "0x" + "11" * 32
    wanted = {"address": [ALICE, BOB], "topics": [[word, word], None, word]}
    assert ask("eth_newFilter", wanted).startswith("0x") and ask("eth_newBlockFilter").startswith("0x")
    assert ask("eth_newFilter", wanted)["code"] == -32005
    session = Session(host.hub)
    session.subscribe(Subscription("logs", read_criteria(wanted)))
    session.release()
    session.subscribe(Subscription("newHeads"))
    with pytest.raises(RpcError, match="more than 5 addresses and topics"):
        session.subscribe(Subscription("logs", read_criteria(wanted)))


def test_a_pool_too_large_for_one_answer_is_not_told(
    host: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = host.send()
    assert list(ask("txpool_content")["pending"]) == [ALICE]
    monkeypatch.setattr(node_info, "CONTENT_BYTES_MAX", len(sent.raw) - 1)
    assert ask("txpool_content")["code"] == -32003


def test_the_prologue_shows_as_an_unsigned_free_transaction(host: Any, ask: Ask) -> None:
    host.produce()
    prologue = ask("eth_getBlockByNumber", "latest", True)["transactions"][0]
    assert prologue["type"] == "0x7e" and prologue["nonce"] == "0x1" and prologue["to"] == checksum(MARKET)
    for name in ("r", "s", "v", "yParity", "gasPrice"):
        assert prologue[name] == "0x0"
    receipt = ask("eth_getTransactionReceipt", prologue["hash"])
    assert receipt["effectiveGasPrice"] == "0x0" and receipt["type"] == "0x7e" and receipt["status"] == "0x1"


def test_contracts_deploy_call_log_and_are_found(host: Any, ask: Ask) -> None:
    deployed = host.send(to=b"", value=0, data=DEPLOY_LOGGER, gas=200_000)
    host.produce()
    address = ask("eth_getTransactionReceipt", "0x" + deployed.hash.hex())["contractAddress"]
    assert address == checksum(created_by(ACCOUNT_ADDRESSES[0], 0))
    assert ask("eth_getCode", address, "latest") == "0x" + LOGGER.hex()
    word = "0x" + f"{77:064x}"
    assert ask("eth_call", {"to": address, "data": word}, "latest") == word
    everything = ask("eth_newFilter", {"address": address})
    blocks = ask("eth_newBlockFilter")
    pending = ask("eth_newPendingTransactionFilter")
    emitted = host.send(to=bytes.fromhex(address[2:]), value=0, data=bytes.fromhex(word[2:]), gas=100_000)
    assert ask("eth_getFilterChanges", pending) == ["0x" + emitted.hash.hex()]
    host.produce()
    (log,) = ask("eth_getFilterChanges", everything)
    assert log["topics"] == [word] and log["data"] == word and log["address"] == address
    assert log["transactionHash"] == "0x" + emitted.hash.hex() and log["removed"] is False
    assert ask("eth_getFilterChanges", everything) == []
    assert ask("eth_getFilterLogs", everything) == [log]
    assert ask("eth_getFilterChanges", blocks) == [log["blockHash"]]
    search = {"fromBlock": "0x0", "toBlock": "latest", "address": [address]}
    assert ask("eth_getLogs", search) == [log]
    assert ask("eth_getLogs", {**search, "topics": [[word, "0x" + "00" * 32]]}) == [log]
    assert ask("eth_getLogs", {**search, "topics": ["0x" + "00" * 32]}) == []
    assert ask("eth_getLogs", {"blockHash": log["blockHash"], "topics": [word]}) == [log]
    assert ask("eth_uninstallFilter", everything) is True
    assert ask("eth_getFilterChanges", everything)["message"] == "filter not found"


def test_calls_and_estimates(host: Any, ask: Ask) -> None:
    host.produce()
    assert ask("eth_estimateGas", {"from": ALICE, "to": BOB, "value": "0x1"}) == "0x5208"
    override = {BOB: {"code": "0x" + REVERTER.hex()}}
    reverted = ask("eth_call", {"to": BOB}, "latest", override)
    assert (reverted["code"], reverted["message"]) == (3, "execution reverted")
    assert reverted["data"] == "0x" + "00" * 32
    refused = ask("eth_call", {"to": checksum(MARKET), "data": "0x" + abi.CANCEL.encode_call(b"\x01" * 32).hex()})
    assert refused["code"] == 3 and refused["message"].startswith("execution reverted: ")
    poor = ask("eth_estimateGas", {"from": "0x" + "99" * 20, "to": BOB, "value": "0x1"})
    assert poor["code"] == -32000 and "insufficient funds" in poor["message"]
    found = ask("eth_createAccessList", {"from": ALICE, "to": BOB})
    assert found["accessList"] == [] and found["gasUsed"] == "0x5208"


def test_proofs_verify_against_the_state_root(host: Any, ask: Ask) -> None:
    block = host.produce().block
    proof = ask("eth_getProof", ALICE, ["0x0"], "latest")
    nodes = [bytes.fromhex(node[2:]) for node in proof["accountProof"]]
    assert keccak(nodes[0]) == block.header.state_root
    for parent, child in pairwise(nodes):
        assert keccak(child) in parent
    assert proof["balance"] == ask("eth_getBalance", ALICE, "latest")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nonce": 0}, "nonce too low: "),
        ({"gas": 20_000}, "intrinsic gas too low"),
        ({"value": 10**30}, "insufficient funds for gas * price + value"),
        ({"chain_id": 5}, "invalid chain id for signer"),
        ({"max_priority_fee_per_gas": 10**12}, "max priority fee per gas higher than max fee per gas"),
        ({"gas": 50_000_000}, "exceeds block gas limit"),
    ],
)
def test_a_refused_transaction_says_why_in_geths_words(
    host: Any, ask: Ask, changes: dict[str, int], said: str
) -> None:
    host.send()
    host.produce()
    values = {"to": b"\x11" * 20, "gas": 21_000, "value": 1, "max_fee_per_gas": 10**10, "nonce": 1}
    values |= {"max_priority_fee_per_gas": 10**9, "chain_id": 31337, **changes}
    answer = ask("eth_sendRawTransaction", "0x" + sign_transaction(ACCOUNT_KEYS[0], **values).raw.hex())
    assert answer["code"] == -32000 and said in answer["message"]


def test_the_same_transaction_twice_is_already_known(host: Any, ask: Ask) -> None:
    raw = "0x" + host.send().raw.hex()
    assert ask("eth_sendRawTransaction", raw)["message"].startswith("already known")


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_nothing", [], -32601),
        ("eth_getBalance", [], -32602),
        ("eth_getBalance", ["0x12", "latest"], -32602),
        ("eth_getBalance", [ALICE, "yesterday"], -32602),
        ("eth_getBalance", [ALICE, "0x999"], -32000),
        ("eth_getBlockByNumber", ["0x0", "yes"], -32602),
        ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "0x0", "topics": ["0x1"]}], -32602),
        ("eth_getLogs", ["x"], -32602),
        ("eth_sendRawTransaction", ["0x01"], -32000),
        ("eth_sendRawTransaction", ["0x7e01"], -32000),
        ("eth_subscribe", ["newHeads"], -32601),
        ("eth_chainId", [1, 2, 3], -32602),
        ("eth_feeHistory", ["0x0", "latest", []], -32602),
        ("eth_feeHistory", ["0x1", "latest", [90, 10]], -32602),
        ("eth_call", [{"to": "0x1"}], -32602),
    ],
)
def test_bad_requests_get_their_code(ask: Ask, method: str, params: list[Any], code: int) -> None:
    answer = ask(method, *params)
    assert answer["code"] == code, answer


def test_fees(host: Any, ask: Ask) -> None:
    for _ in range(3):
        host.send(max_priority_fee_per_gas=3 * 10**9)
        host.produce()
    assert ask("eth_maxPriorityFeePerGas") == hex(3 * 10**9)
    assert int(ask("eth_gasPrice"), 16) == host.ledger.next_base_fee() + 3 * 10**9
    history = ask("eth_feeHistory", "0x2", "latest", [0, 50.5, 100])
    assert history["oldestBlock"] == "0x2" and len(history["baseFeePerGas"]) == 3
    assert history["reward"] == [[hex(3 * 10**9)] * 3] * 2


def test_validators_models_and_health(host: Any, ask: Ask) -> None:
    host.produce()
    (validator,) = ask("labora_validators")["validators"]
    assert validator["power"] == int(validator["bondWei"]) // 10**15 > 0 and validator["serves"]
    (model,) = ask("labora_models")
    assert model["listed"] is True and model["model"] == validator["serves"][0]["model"]
    assert ask("labora_health")["height"] == 1
    (soft,) = ask("labora_softAnswers", "0x" + "0a" * 32, "0x5")
    assert soft["first"] == 5 and soft["tokens"] == [1, 2]
    for wrong in (("0x12",), ("0x" + "0a" * 32, -1)):
        assert ask("labora_softAnswers", *wrong)["code"] == -32602
    assert ask("labora_task", "0x" + "00" * 32) is None
