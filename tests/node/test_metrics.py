"""Prometheus: what a real node shows a scraper, and that labels keep to their lists whatever the chain says."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from node_of_one import against_a_node
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from node.client import Client
from node.config import DataFolder, load
from node.exits import CONFIGURATION, PORT_IN_USE, Fatal
from node.metrics import by_reason
from node.scrape import serve
from primitives.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scraped(url: str, accept: str = "") -> tuple[str, str]:
    """(page, its content type)."""
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def by_name(families: Iterable[Metric]) -> dict[str, Metric]:
    return {family.name: family for family in families}


def named(sample: str) -> str:
    """As the documents call it: a histogram has one name."""
    for ending in ("_bucket", "_count", "_sum"):
        if sample.endswith(f"_seconds{ending}"):
            return sample.removesuffix(ending)
    return sample


def test_a_real_node_is_scraped(tmp_path: Path) -> None:
    def scrape(client: Client, folder: DataFolder) -> None:
        while client.number("eth_blockNumber") < 3:
            pass
        url = json.loads(folder.endpoints.read_text())["metrics"]
        page, content_type = scraped(url)
        assert content_type.startswith("text/plain")
        found = by_name(plain(page))

        samples = [sample for family in found.values() for sample in family.samples]

        def value(name: str, **labels: str) -> float:
            (sample,) = [each for each in samples if each.name == name and each.labels == labels]
            return sample.value

        head = client.number("eth_blockNumber")
        assert 3 <= value("ethereum_blockchain_height") <= head
        assert value("ethereum_peer_count") == 0 and value("ethereum_peer_limit") == 50
        (row,) = client.call("labora_validators")["validators"]
        assert value("labora_work_power") == row["power"] == value("labora_consensus_validators_power")
        assert value("labora_work_bond_wei") == int(row["bondWei"])
        assert value("labora_chain_base_price_wei") > 0 < value("labora_chain_base_fee_wei")
        assert value("labora_work_missed_total", reason="no_answer") == 0
        assert value("labora_mempool_transactions", state="queued") == 0
        assert value("labora_work_tasks", status="disputed") == 0
        signed = value("labora_consensus_validator_last_signed_height")
        assert 1 <= signed <= head and value("labora_consensus_missed_blocks_total") == 0
        assert value("labora_chain_prologue_seconds_count") >= 3 and value("labora_chain_prologue_seconds_sum") > 0
        model = [each for each in found["labora_inference_model_up"].samples if each.value == 0]
        assert len(model) == 1, "it declared a model and runs none (engine = none)"
        told = {each.labels["reason"]: each.labels["advice"] for each in found["labora_reason_info"].samples}
        assert told == {reason.code: reason.advice for reason in Reason}

        documented = (ROOT / "docs" / "operators.md").read_text()
        assert [each.name for each in samples if named(each.name) not in documented] == []

        page, content_type = scraped(url, OPENMETRICS)
        assert content_type.startswith("application/openmetrics-text")
        assert by_name(openmetrics(page)).keys() == found.keys()
        for kind in ("text/plain", "application/openmetrics-text"):
            for version in ("x", "1..", "9" * 5000, "99.0", "1.0.0\xe9", ""):
                page, content_type = scraped(url, f"{kind};version={version};escaping=?")
                assert content_type.startswith(kind) and "labora_node_info" in page
        for wrong, code in ((url.removesuffix("metrics"), 404), (url + "/x", 404)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                scraped(wrong)
            assert caught.value.code == code
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url, data=b"x", timeout=20)
        assert caught.value.code == 405

    against_a_node(tmp_path, scrape)


def test_labels_are_those_of_a_list_whatever_a_chain_says() -> None:
    family = by_reason("labora_work_refused", "", 64, 127, {"stage": 2, "made up": 1, "also": 4})
    values = {sample.labels["reason"]: sample.value for sample in family.samples}
    assert values.keys() == {reason.code for reason in Reason if reason >= 64}
    assert (values["stage"], values["other"], values["too_late"]) == (2, 5, 0)


def test_strangers_and_rubbish_harm_nobody() -> None:
    async def page(_accept: str) -> tuple[bytes, str]:
        return b"a 1\n", "text/plain"

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve, "127.0.0.1:0", page)
            host, _, port = address.rpartition(":")
            for rubbish in (b"\x00" * 100, b"GET /metrics HTTP/9\r\n\r\n", b"GET /" + b"x" * 40_000, b""):
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    try:
                        await stream.send_all(rubbish)
                        await stream.send_eof()
                        assert b"a 1" not in await stream.receive_some()
                    except trio.BrokenResourceError:
                        pass
            body, _ = await trio.to_thread.run_sync(scraped, f"http://{address}/metrics")
            assert body == "a 1\n"
            with pytest.raises(Fatal, match="choose another --metrics") as caught:
                await serve(address, page)
            assert caught.value.code == PORT_IN_USE
            nursery.cancel_scope.cancel()

    trio.run(scenario)


def test_it_is_off_unless_told_and_addresses_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert load(path, {}, {}).metrics == ""
    assert load(path, {"LABORA_METRICS": "0.0.0.0:9464"}, {}).metrics == "0.0.0.0:9464"
    for wrong in ("9464", "host:", "host:99999", "http://host:1"):
        with pytest.raises(Fatal, match="metrics") as caught:
            load(path, {}, {"metrics": wrong})
        assert caught.value.code == CONFIGURATION
