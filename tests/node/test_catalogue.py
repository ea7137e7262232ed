"""Models from the command line against a real node: registered, taken from a folder, listed, fetched, removed."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from node_of_one import against_a_node, refused
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from genesis.keys import devnet_validator
from genesis.models import DEFAULT_MODEL
from inference import program as cip
from inference.build import random_model, request, with_known_answers
from inference.model import Model, save
from inference.opening import claims_of
from inference.tokenizer import TOKENIZER_NAME
from node import backend, catalogue, validator
from node import words as words_module
from node.client import Client, RpcFailure, to_hex
from node.config import DataFolder, NodeConfig
from node.exits import CONFIGURATION, RUNTIME, USAGE
from node.post import find_model
from node.store import ModelStore
from node.validator import Operator
from node.words import NoWords, tokenizer_of
from primitives.hashing import keccak
from vm.system import abi

CONFIG = NodeConfig(engine="numpy")


@pytest.fixture(scope="module")
def some() -> Model:
    shape = cip.Shape(
        vocabulary=256, context=64, width=32, layers=1, heads=2, kv_heads=1, head_width=16, rotary=16, hidden=64,
        norm_epsilon_q32=42950, layers_per_group=1,
    )  # fmt: skip
    return with_known_answers(random_model(shape, 31, stop=(0,)), [request((1, 2, 3), 2)])


def said(command: Callable[..., None], *arguments: object) -> str:
    """What a command prints. Not by pytest's capture: loggers keep the stream that they first wrote to."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        command(*arguments)
    return out.getvalue()


def test_the_life_of_a_model(some: Model, tmp_path: Path) -> None:
    save(tmp_path / "some", some.manifest, some.tensors)
    wrong = cip.decode_manifest(
        some.manifest.encode().replace(some.manifest.known_answers[0].root.hex().encode(), b"00" * 32)
    )
    save(tmp_path / "wrong", wrong, some.tensors)
    model, source = to_hex(some.model_id), tmp_path / "some"

    def commands(client: Client, folder: DataFolder) -> None:
        operator = Operator(client, devnet_validator(0).operator)

        def register(path: Path, rate: int | None = 1_000_000) -> validator.Report:
            return catalogue.register(operator, folder, path, CONFIG, None, "https://example.org/some", rate)

        refused(RUNTIME, "does not pass its check: .*known answer", lambda: register(tmp_path / "wrong"))
        refused(USAGE, "is no model's folder", lambda: register(tmp_path))
        report = register(source)
        assert report.values["model"] == model and report.values["referenceMacsPerBlock"] == "1000000"
        refused(RUNTIME, "register was refused: .* is registered already", lambda: register(source))
        found = next(row for row in client.call("labora_models") if row["model"] == model)
        cost = some.manifest.cost
        assert found["cost"] == {"a": str(cost.a), "b": str(cost.b), "c": str(cost.c)} and found["stopIds"] == [0]
        assert (found["uri"], found["licence"]) == ("https://example.org/some", "CC0-1.0")
        assert found["registrant"] == operator.name and not found["listed"] and found["servers"] == []

        missing = f"does not hold random-31: `labora model fetch {model}`"
        refused(RUNTIME, missing, lambda: validator.serve(operator, folder, CONFIG, model, 5))
        with pytest.raises(RpcFailure, match="needs a token"):
            client.call("admin_fetchModel", model)

        refused(RUNTIME, "no connected peer gives part 0.*goes on asking",
                lambda: catalogue.fetch(client.url, folder, model, None, False))  # fmt: skip
        text = said(catalogue.list_models, client, False)
        assert "random-31 (unlisted)" in text and "waiting, nothing yet: no connected peer" in text
        assert "is gone" in said(catalogue.remove, client.url, folder, model)

        refused(USAGE, "holds model", lambda: catalogue.take(folder, CONFIG, "0x" + "00" * 32, source, False))
        bad = to_hex(wrong.model_id())
        refused(RUNTIME, "does not pass", lambda: catalogue.take(folder, CONFIG, bad, tmp_path / "wrong", False))
        size = sum(tensor.size_bytes for tensor in some.manifest.tensors)
        taken = json.loads(said(catalogue.take, folder, CONFIG, model, source, True))
        assert taken == {"model": model, "name": "random-31", "state": "ready", "bytes": size}
        text = said(catalogue.fetch, None, folder, "random-31", None, False)
        assert f"random-31 ({model}) is here, whole and checked" in text
        listed = json.loads(said(catalogue.list_models, client, True))
        assert next(row for row in listed["chain"] if row["model"] == model)["local"]["state"] == "ready"
        assert [(row["model"], row["state"]) for row in listed["others"]] == [(bad, "failed")]

        other = random_model(some.manifest.shape, 32)
        save(tmp_path / "other", other.manifest, other.tensors)
        said(catalogue.take, folder, CONFIG, to_hex(other.model_id), tmp_path / "other", True)
        record, _, stops = claims_of(other.manifest)
        operator.send(abi.REGISTER_MODEL, other.model_id, "other", "", "", record, bytes(31) + b"\1", stops, 5)
        foreign = "cannot be served: its record, program root or stop ids"
        refused(RUNTIME, foreign, lambda: validator.serve(operator, folder, CONFIG, to_hex(other.model_id), 5))

        served = validator.serve(operator, folder, CONFIG, model, None).values
        assert served["model"] == model and int(served["measuredMacsPerSecond"]) > 0
        found = next(row for row in client.call("labora_models") if row["model"] == model)
        assert found["servers"] == [operator.name]
        refused(RUNTIME, "ships with the program", lambda: catalogue.remove(None, folder, DEFAULT_MODEL))
        said(catalogue.remove, None, folder, "random-31")
        assert ModelStore(folder.models, 1).folder_of(some.model_id) is None
        refused(RUNTIME, "does not hold", lambda: validator.serve(operator, folder, CONFIG, model, 5))
        stranger = DataFolder(tmp_path / "stranger")
        refused(CONFIGURATION, "not the folder of a running", lambda: catalogue.remove(None, stranger, model))

    against_a_node(tmp_path, commands)


def test_who_asks_a_node_that_holds_a_model_has_its_words(
    some: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asker has no folder of its own: the node gives manifest and tokenizer, once, and is not trusted with them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LABORA_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr(backend, "TOKENIZER_PIECE_BYTES", 100)
    words = Tokenizer(WordLevel({"the": 5, "sea": 7, "[UNK]": 9}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    text = words.to_str().encode()
    manifest = replace(some.manifest, tokenizer=hashlib.sha256(text).hexdigest())
    model, source = keccak(manifest.encode()), tmp_path / "spoken"
    save(source, manifest, some.tensors)
    (source / TOKENIZER_NAME).write_bytes(text)

    def commands(client: Client, folder: DataFolder) -> None:
        with pytest.raises(NoWords, match=f"neither here nor on the node at {client.url}: --rpc names"):
            tokenizer_of(model, client)
        said(catalogue.take, folder, CONFIG, to_hex(model), source, True)
        liar = Client(client.url)
        liar.call = lambda *asked: client.call(*asked[:2], *("0x1" for _ in asked[2:]))  # type: ignore[method-assign]
        with pytest.raises(NoWords, match=r"gives 0 bytes of|hashes to"):
            tokenizer_of(model, liar)
        assert len(text) > 200, "several pieces"
        for number in range(3):
            (tmp_path / "cache" / "labora" / "words" / f"{number:064x}").mkdir(parents=True)
        monkeypatch.setattr(words_module, "KEPT_MAX", 2)
        assert tokenizer_of(model, client).encode("the sea") == [5, 7]

    against_a_node(tmp_path, commands)
    kept = sorted(path.name for path in (tmp_path / "cache" / "labora" / "words").iterdir())
    assert len(kept) == 2 and model.hex() in kept, "the oldest are forgotten"
    nobody = Client("http://127.0.0.1:9")
    assert tokenizer_of(model, nobody).encode("the old sea") == [5, 9, 7], "it is asked for once"


def test_of_models_with_one_name_only_the_listed_one_goes_by_it() -> None:
    def chain(*rows: tuple[str, str, bool]) -> Client:
        client = Client("http://127.0.0.1:9")
        found = [{"name": name, "model": model, "listed": listed} for name, model, listed in rows]
        client.call = lambda method, *params: found  # type: ignore[method-assign]
        return client

    first, second = "0x" + "11" * 32, "0x" + "22" * 32
    assert find_model(chain(("sea", first, True), ("Sea", second, False)), "SEA")[1].hex() == "11" * 32
    pair = chain(("sea", first, False), ("sea", second, False))
    refused(USAGE, "2 models are called 'sea'", lambda: find_model(pair, "sea"))
    assert find_model(pair, second)[1].hex() == "22" * 32


def test_without_a_terminal_progress_is_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with catalogue._bar("0x1234") as progress:
        for done in range(0, 1001, 7):
            progress(done, 1000)
        progress(1000, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split()[1] == "0" and len(lines) == 11
    assert lines[-1].startswith("0x1234 100 % of 1,000 bytes")
