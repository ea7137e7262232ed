"""Models of a chain and of this node, from the command line: list, register, fetch, remove. Owns what is printed; how a
model travels is node.travel's, where it lies node.store's. Results go to standard output, progress to standard error.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inference.chunks import ChunkReader
from inference.opening import claims_of, read_shape_record
from inference.program import Manifest, ProgramError
from node.client import Client, RpcFailure, to_hex
from node.config import DataFolder, NodeConfig
from node.exits import CONFIGURATION, RUNTIME, USAGE, Fatal
from node.keys import read_admin_secret
from node.post import find_model
from node.store import ModelStore, StoreRefused, copy_from
from node.validator import Operator, Report, declared_rate, measure_folder, own_chain
from primitives.task import ModelCost
from vm.system import abi

POLL_SECONDS = 0.5
SAID_PERCENT = 10
"""How often a fetch is reported where there is no terminal."""
MACS_EXAMPLE = "--macs-per-block N says how many multiply-adds a block deadlines count on"

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""


def list_models(client: Client, as_json: bool) -> None:
    """The chain's models and what this node has of them, and what it has besides."""
    local = {row["model"]: row for row in client.call("labora_localModels")}
    on_chain = client.call("labora_models")
    if as_json:
        known = {found["model"] for found in on_chain}
        rows = [{**found, "local": local.get(found["model"])} for found in on_chain]
        print(json.dumps({"chain": rows, "others": [row for model, row in local.items() if model not in known]}))
        return
    print(f"{'name':<24}{'id':<20}{'licence':<16}{'MACs a token':>16}{'MACs a block':>18}  served by, here")
    for found in on_chain:
        cost = found["cost"]
        name = found["name"] if found["listed"] else f"{found['name']} (unlisted)"
        row = local.pop(found["model"], None)
        licence = found["licence"] or (row or {}).get("licence") or "-"
        servers = ", ".join(operator[:8] for operator in found["servers"]) or "nobody"
        print(
            f"{name:<24}{found['model'][:18]:<20}{licence[:15]:<16}{int(cost['a']) + int(cost['c']):>16,}"
            f"{int(found['referenceMacsPerBlock']):>18,}  {servers}; {_here(row)}"
        )
    for row in local.values():
        print(f"{row['name'] or '-':<24}{row['model'][:18]:<20}not on this chain; {_here(row)}")


def register(
    operator: Operator, folder: DataFolder, source: Path, config: NodeConfig, name: str | None, uri: str,
    rate: int | None,
) -> Report:  # fmt: skip
    """Models.register with what the manifest says, after the folder has passed its check here. rate: the multiply-adds
    a block that deadlines of its tasks count on; None: what a short run on this machine shows. Raises Fatal."""
    manifest, model = _manifest_of(source)
    _check(source, config)
    name = name or manifest.name
    shape, cost = manifest.shape, manifest.cost
    claims = claims_of(manifest)
    try:
        read_shape_record(claims.record)
    except ProgramError as error:
        raise Fatal(RUNTIME, f"no chain takes {name}: {error}") from error
    lines, values = [], {}
    if rate is None:
        if shape.features.encoder:
            raise Fatal(USAGE, f"{name} writes no text, by which speed is measured: {MACS_EXAMPLE}")
        params, _ = own_chain(operator.client, folder)
        priced = ModelCost(cost.a, cost.b, cost.c, 1, 1)
        facts = (priced, shape.vocabulary, shape.context, manifest.stop)
        per_second = measure_folder(source, *facts, config, MACS_EXAMPLE)
        rate = declared_rate(params, per_second)
        lines.append(f"this machine does {per_second:,} multiply-adds a second")
        values["measuredMacsPerSecond"] = str(per_second)
    done = operator.send(
        abi.REGISTER_MODEL, model, name, uri, manifest.licence, *claims, rate,
    )  # fmt: skip
    lines = [
        f"{name} is model {to_hex(model)}, licence {manifest.licence or 'not named'}",
        *lines,
        f"deadlines count on {rate:,} multiply-adds a block",
        f"next: `labora model fetch {to_hex(model)} --path {source}` for a node on this machine, without --path on "
        f"others; then `labora validator serve --model {to_hex(model)}`",
    ]
    return done.told(lines, model=to_hex(model), name=name, referenceMacsPerBlock=str(rate), **values)


def fetch(rpc: str | None, folder: DataFolder, wanted: str, peer: str | None, as_json: bool) -> None:
    """Have the running node fetch a model from its peers, and follow it until it is whole and checked."""
    client = _admin(rpc, folder)
    model = _model_id(client, wanted)
    if _row(client, model)["state"] != "ready":
        try:
            client.call("admin_fetchModel", to_hex(model), peer)
        except RpcFailure as failure:
            raise Fatal(RUNTIME, failure.message) from failure
        with _bar(to_hex(model)[:18]) as progress:
            row = _follow(client, model, progress)
        if row["state"] == "waiting":
            raise Fatal(RUNTIME, f"{row['reason']}; the node goes on asking: `labora model list` shows how far it is")
        if row["state"] != "ready":
            raise Fatal(RUNTIME, f"{to_hex(model)} was {row['state']}: {row['reason']}")
    _say_ready(_row(client, model), as_json)


def take(folder: DataFolder, config: NodeConfig, wanted: str, source: Path, as_json: bool) -> None:
    """Copy a model's folder into the node's, chunk by verified chunk, and check it; no node need run."""
    import trio

    from node import logs
    from node.travel import CheckFailed, check_model

    _, model = _manifest_of(source)
    if wanted.lower().removeprefix("0x") != model.hex():
        raise Fatal(USAGE, f"{source} holds model {to_hex(model)}, not {wanted}")
    store = ModelStore(folder.models, config.model_quota_mib)
    logs.set_up("error", config.log_format)
    if store.folder_of(model) is None:
        try:
            with store.open(model) as incoming, _bar(to_hex(model)[:18]) as progress:
                copy_from(incoming, source, progress)
                try:
                    trio.run(check_model, incoming.folder, config)
                except CheckFailed as error:
                    incoming.fail(str(error))
                    raise Fatal(RUNTIME, f"{to_hex(model)} does not pass its check: {error}") from error
                incoming.publish()
        except (StoreRefused, ProgramError) as error:
            raise Fatal(RUNTIME, str(error)) from error
    held = next(each for each in store.held() if each.model == model)
    row = {**asdict(held), "model": to_hex(model), "bytes": held.done_bytes, "totalBytes": held.total_bytes}
    _say_ready(row, as_json)


def remove(rpc: str | None, folder: DataFolder, wanted: str) -> None:
    """Have the running node delete a model, or what is here of it."""
    client = _admin(rpc, folder)
    model = _model_id(client, wanted)
    try:
        freed = client.call("admin_removeModel", to_hex(model))
    except RpcFailure as failure:
        raise Fatal(RUNTIME, failure.message) from failure
    print(f"{to_hex(model)} is gone: {freed:,} bytes")


def _admin(rpc: str | None, folder: DataFolder) -> Client:
    """The node of a data folder, with its token."""
    if rpc is None:
        try:
            rpc = str(json.loads(folder.endpoints.read_text())["rpc"])
        except (OSError, ValueError, KeyError) as error:
            text = f"{folder.root} is not the folder of a running node: --data-dir names it"
            raise Fatal(CONFIGURATION, text) from error
    return Client(rpc, secret=read_admin_secret(folder.token))


def _model_id(client: Client, wanted: str) -> bytes:
    """An id in hex, whether the chain knows it or not, or the name of a model of the chain."""
    digits = wanted.lower().removeprefix("0x")
    if len(digits) == 64 and not set(digits) - set("0123456789abcdef"):
        return bytes.fromhex(digits)
    return find_model(client, wanted)[1]


def _manifest_of(source: Path) -> tuple[Manifest, bytes]:
    try:
        with ChunkReader(source) as reader:
            return reader.manifest, reader.model_id
    except (ProgramError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise Fatal(USAGE, f"{source} is no model's folder: {error}") from error


def _check(source: Path, config: NodeConfig) -> None:
    import trio

    from node import logs
    from node.travel import CheckFailed, check_model

    logs.set_up("error", config.log_format)
    try:
        trio.run(check_model, source, config)
    except CheckFailed as error:
        raise Fatal(RUNTIME, f"{source} does not pass its check: {error}") from error


def _row(client: Client, model: bytes) -> dict[str, Any]:
    for row in client.call("labora_localModels"):
        if row["model"] == to_hex(model):
            return dict(row)
    return {"model": to_hex(model), "name": "", "state": "absent", "reason": "", "bytes": 0, "totalBytes": 0}


def _follow(client: Client, model: bytes, progress: Progress) -> dict[str, Any]:
    """Until it is ready, refused, failed, or nobody has it."""
    while True:
        row = _row(client, model)
        progress(row["bytes"], row["totalBytes"])
        if row["state"] not in ("asking", "fetching", "checking"):
            return row
        time.sleep(POLL_SECONDS)


def _say_ready(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: row[name] for name in ("model", "name", "state", "bytes")}))
    else:
        print(f"{row['name']} ({row['model']}) is here, whole and checked: {row['totalBytes']:,} bytes")


def _here(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not here"
    if row["state"] == "ready":
        return f"here, {row['totalBytes']:,} bytes"
    share = f"{row['bytes']:,} of {row['totalBytes']:,} bytes" if row["totalBytes"] else "nothing yet"
    return f"{row['state']}, {share}" + (f": {row['reason']}" if row["reason"] else "")


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """Bytes with their rate and the time left on a terminal; elsewhere a line every tenth."""
    if sys.stderr.isatty():
        from rich import progress as bars
        from rich.console import Console

        columns = (
            bars.TextColumn("{task.description}"), bars.BarColumn(), bars.DownloadColumn(), bars.TransferSpeedColumn(),
            bars.TimeRemainingColumn(),
        )  # fmt: skip
        with bars.Progress(*columns, console=Console(stderr=True)) as shown:
            task = shown.add_task(what, total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total or None)
        return
    began = time.monotonic()
    said = -1
    first = 0

    def say(done: int, total: int) -> None:
        nonlocal said, first
        share = done * 100 // total if total else 0
        if said < 0:
            first = done
        if total and share // SAID_PERCENT > said:
            said = share // SAID_PERCENT
            seconds = time.monotonic() - began
            rate = (done - first) / max(seconds, 0.001)
            left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
            print(f"{what} {share:3} % of {total:,} bytes, {rate / 1e6:.1f} MB/s{left}", file=sys.stderr, flush=True)

    yield say
