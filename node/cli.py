"""The command line. Each command imports what it needs when it runs, so that `labora --help` answers at once.

Exit codes are those of node.exits; an error is one line that says what to do next.
"""

import errno
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from node.exits import DISK, INTERRUPTED, OK, USAGE, Fatal

app = typer.Typer(
    name="labora",
    help="A standalone blockchain node whose consensus is proof of useful work: AI inference, checked bit for bit.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
account = typer.Typer(help="Accounts: keys that sign transactions.", no_args_is_help=True, rich_markup_mode=None)
task = typer.Typer(help="Inference tasks: ask, follow, explain.", no_args_is_help=True, rich_markup_mode=None)
model = typer.Typer(help="Models: import, run, register, fetch, list.", no_args_is_help=True, rich_markup_mode=None)
validator = typer.Typer(help="Validators: register, bond, serve, status.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(account, name="account")
app.add_typer(task, name="task")
app.add_typer(model, name="model")
app.add_typer(validator, name="validator")
receipts = typer.Typer(help="Compute receipts: list, verify, export.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(receipts, name="receipts")

DEFAULT_RPC = "http://127.0.0.1:8545"


class Engine(StrEnum):
    """What runs the models."""

    AUTO = "auto"
    TORCH = "torch"
    NUMPY = "numpy"


class RunEngine(StrEnum):
    """What continues a text: an exact engine, or somebody's server of the tolerant lane."""

    AUTO = "auto"
    TORCH = "torch"
    NUMPY = "numpy"
    OPENAI = "openai"


class Device(StrEnum):
    """Where torch computes."""

    CPU = "cpu"
    CUDA = "cuda"


class TaskKind(StrEnum):
    """What a task asks for."""

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


class WaitFor(StrEnum):
    """How far a task goes before the command returns."""

    ANSWER = "answer"
    AGREED = "agreed"
    SETTLED = "settled"


DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The node's folder (LABORA_DATA_DIR).")]
Rpc = Annotated[str, typer.Option("--rpc", envvar="LABORA_RPC", help="JSON-RPC address of a node.")]
Key = Annotated[str | None, typer.Option("--key", envvar="LABORA_KEY", help="Private key in hex.")]
Account = Annotated[str | None, typer.Option("--account", help="Number of a devnet account, or an address.")]
ModelDir = Annotated[Path, typer.Argument(metavar="DIR", help="The model's folder.")]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Sender:
    """Who sends a transaction, through which node, from which folder, and how what came of it is printed."""

    rpc: Rpc = DEFAULT_RPC
    key: Key = None
    account: Account = None
    data_dir: DataDir = None
    json: AsJson = False

    @property
    def folder(self) -> Any:
        return _data_folder(self.data_dir)

    @property
    def config(self) -> Any:
        return _load_config(self.folder, {})

    @property
    def operator(self) -> Any:
        from node.accounts import choose_key
        from node.client import Client
        from node.validator import Operator

        client = Client(self.rpc)
        return Operator(client, choose_key(self.key, self.account, client.number("eth_chainId"), self.folder.keystore))

    def report(self, report: Any) -> None:
        """Print a node.validator.Report."""
        if self.json:
            import json as codec

            print(codec.dumps(report.values))
            return
        for line in report.lines:
            print(line)


def sending(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a Sender: its options come after the command's own."""
    options = list(inspect.signature(Sender).parameters.values())
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def asked(**given: Any) -> None:
        sender = Sender(**{option.name: given.pop(option.name) for option in options})
        command(sender, **given)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *options)]
    asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    asked.__annotations__ = {each.name: each.annotation for each in parameters}
    return asked


def main() -> NoReturn:
    """Entry point: run the command, turn what went wrong into one line and an exit code."""
    try:
        app()
    except Fatal as error:
        print(f"labora: {error}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("labora: no space left on the disk: free some and start again", file=sys.stderr)
        sys.exit(DISK)
    sys.exit(OK)


@app.command()
def devnet(
    validators: Annotated[int, typer.Option(min=1, max=16, help="Validator processes.")] = 4,
    block_ms: Annotated[int, typer.Option(min=100, max=60_000, help="Milliseconds between blocks.")] = 1000,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the whole devnet (default: ./devnet).")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_000, help="First JSON-RPC port; 0: free ones.")] = 8545,
    engine: Annotated[Engine, typer.Option(help="auto alternates torch and numpy.")] = Engine.AUTO,
    cheat: Annotated[str, typer.Option(help="KIND[:N]: validator N (1) cheats so; `list` names the kinds.")] = "",
    reset: Annotated[bool, typer.Option("--reset", help="Delete the folder's chain first.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write endpoints and accounts here after the first block.")] = None,
) -> None:
    """Start a chain of real validator processes on this machine; Ctrl-C ends all of them."""
    from node import devnet as launcher

    if cheat == "list":
        from node.cheats import KINDS

        for kind, what in KINDS.items():
            print(f"{kind:<24}{what}")
        return
    folder = data_dir or Path("devnet")
    options = launcher.Options(validators, block_ms, folder, port, engine.value, reset, json, cheat)
    raise typer.Exit(launcher.run(options))


@app.command()
def init(
    genesis: Annotated[Path, typer.Option(help="The chain's genesis file.")],
    data_dir: DataDir = None,
    as_validator: Annotated[bool, typer.Option("--validator", help="Make a validator's keys too.")] = False,
    passphrase_file: Annotated[Path | None, typer.Option(help="File with the keys' passphrase.")] = None,
) -> None:
    """Make a node's folder: configuration, genesis, keys. Prints the genesis hash."""
    from node.init import initialise

    initialise(_data_folder(data_dir), genesis, as_validator, passphrase_file)


@app.command()
def run(
    data_dir: DataDir = None,
    p2p_host: Annotated[str | None, typer.Option(help="Address that peers connect to.")] = None,
    p2p_port: Annotated[int | None, typer.Option(help="Port that peers connect to (0: any free one).")] = None,
    p2p_peers: Annotated[list[str] | None, typer.Option("--p2p-peer", help="id@host:port; may be repeated.")] = None,
    rpc_host: Annotated[str | None, typer.Option(help="Address of JSON-RPC.")] = None,
    rpc_port: Annotated[int | None, typer.Option(help="Port of JSON-RPC (0: any free one).")] = None,
    rpc_cors: Annotated[list[str] | None, typer.Option(help="Origin that browser pages may call from.")] = None,
    rpc_vhosts: Annotated[list[str] | None, typer.Option(help="Host name that requests may carry.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, torch, numpy, ray or none.")] = None,
    model_quota_mib: Annotated[int | None, typer.Option(help="MiB that models may take.")] = None,
    engine_threads: Annotated[int | None, typer.Option(help="CPU threads of the model's process.")] = None,
    engine_device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    engine_kv_mib: Annotated[int | None, typer.Option(help="MiB of keys and values at once.")] = None,
    engine_split: Annotated[int | None, typer.Option(help="Devices of one host that hold a model together.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="host:port of a Ray cluster; empty: one here.")] = None,
    ray_workers: Annotated[int | None, typer.Option(help="Workers of each model on the Ray cluster.")] = None,
    watch: Annotated[bool | None, typer.Option(help="Recompute answers of others, challenge false ones.")] = None,
    passphrase_file: Annotated[str | None, typer.Option(help="File with the keys' passphrase.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="terminal, logfmt or json.")] = None,
    new_signer: Annotated[
        bool, typer.Option("--new-signer", help="Start a missing signer anew; it stays silent for 2n heights.")
    ] = False,
) -> None:
    """Run one node in the foreground."""
    flags = {
        "p2p_host": p2p_host, "p2p_port": p2p_port, "p2p_peers": p2p_peers or None, "rpc_host": rpc_host,
        "rpc_port": rpc_port, "rpc_cors": rpc_cors or None, "rpc_vhosts": rpc_vhosts or None, "engine": engine,
        "model_quota_mib": model_quota_mib, "engine_threads": engine_threads, "engine_device": engine_device,
        "engine_kv_mib": engine_kv_mib, "engine_split": engine_split, "ray_address": ray_address,
        "ray_workers": ray_workers, "watch": watch, "passphrase_file": passphrase_file,
        "log_level": log_level, "log_format": log_format,
    }  # fmt: skip
    folder = _data_folder(data_dir)
    settings = _load_config(folder, flags)
    from node.node import run_node

    raise typer.Exit(run_node(folder, settings, new_signer))


@account.command("new")
def account_new(data_dir: DataDir = None) -> None:
    """Make an account and print its address."""
    from node.accounts import ask_passphrase
    from node.keys import find_passphrase, new_secret, write_keystore
    from primitives.address import checksum
    from primitives.keys import address_of

    keystore = _data_folder(data_dir).keystore
    secret = new_secret()
    address = address_of(secret)
    write_keystore(keystore / f"{address.hex()}.json", secret, find_passphrase(None, keystore, ask_passphrase))
    print(checksum(address))


@account.command("list")
def account_list(data_dir: DataDir = None) -> None:
    """List the accounts that have a keystore."""
    from node.accounts import stored_accounts

    for address in stored_accounts(_data_folder(data_dir).keystore):
        print(address)


@task.command("post")
def task_post(
    prompt: Annotated[str, typer.Argument(help="What to continue, to embed or to score; with --ids token ids.")],
    rpc: Rpc = DEFAULT_RPC,
    key: Key = None,
    account: Account = None,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option(help="Name or id (default: the chain's first).")] = None,
    kind: Annotated[TaskKind, typer.Option(help="What is asked of the text.")] = TaskKind.GENERATE,
    label: Annotated[
        list[str] | None, typer.Option(help="Score this after the text; may be repeated, the likeliest is printed.")
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Prompt and labels are token ids: 84,104,101.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of the answer (64).")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 is greedy (0.7).")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample among so many; 0: all (40).")] = None,
    assurance: Annotated[
        int | None, typer.Option(min=0, max=8, help="Least verifiers; 0 accepts an answer that nobody checks.")
    ] = None,
    tip: Annotated[
        int, typer.Option(min=0, help="Wei a CWU beyond the price; tasks that tip more are dealt first.")
    ] = 0,
    value_at_risk: Annotated[
        str | None, typer.Option(help="Coins that a wrong answer may cost you: it is checked by as many as that asks.")
    ] = None,
    wait: Annotated[WaitFor, typer.Option(help="How far to follow it.")] = WaitFor.SETTLED,
    json: AsJson = False,
) -> None:
    """Ask the chain's validators to continue, embed or score a text; print the answer and its story."""
    from node.accounts import choose_key
    from node.client import Client
    from node.post import Request, Wait, find_model, post_task, wait_for
    from node.validator import parse_coins
    from node.watch import Watcher
    from primitives.task import Kind

    if kind is not TaskKind.GENERATE and (max_tokens, temperature, top_k) != (None, None, None):
        raise Fatal(USAGE, f"--kind {kind} makes no tokens: leave out --max-tokens, --temperature and --top-k")
    if label and kind is not TaskKind.SCORE:
        raise Fatal(USAGE, "--label is for --kind score")
    sampling = (64 if max_tokens is None else max_tokens, 0.7 if temperature is None else temperature,
                40 if top_k is None else top_k) if kind is TaskKind.GENERATE else (0, 0.0, 0)  # fmt: skip
    client = Client(rpc)
    _, model_id = find_model(client, model)
    at_risk = 0 if value_at_risk is None else parse_coins(value_at_risk)
    requests = [
        Request(prompt, *sampling, assurance, model_id, Kind[kind.name], each, ids, tip, at_risk)
        for each in label or [""]
    ]
    secret = choose_key(key, account, client.number("eth_chainId"), _data_folder(data_dir).keystore)
    posted = [post_task(client, secret, request)[0] for request in requests]
    stories = []
    for task_id in posted:
        if json:
            stories.append(wait_for(client, task_id, Wait(wait.value), _quiet))
            continue
        print(f"task 0x{task_id.hex()}")
        watcher = Watcher(_write)
        stories.append(wait_for(client, task_id, Wait(wait.value), watcher.line, watcher))
    if kind is TaskKind.SCORE and all(story.vector for story in stories):
        _print_scores(requests, stories, json)
        return
    for story in stories:
        _print_story(story, json)


@task.command("watch")
def task_watch(task_id: Annotated[str, typer.Argument(help="The task's id.")], rpc: Rpc = DEFAULT_RPC) -> None:
    """Follow a task until it has settled."""
    from node.client import Client
    from node.post import Wait, wait_for
    from node.watch import Watcher

    watcher = Watcher(_write)
    story = wait_for(Client(rpc), _task_id(task_id), Wait.SETTLED, watcher.line, watcher)
    _print_story(story, as_json=False)


@task.command("explain")
def task_explain(
    task_id: Annotated[str, typer.Argument(help="The task's id.")], rpc: Rpc = DEFAULT_RPC, json: AsJson = False
) -> None:
    """Print a task's story again, from the chain alone."""
    from node.client import Client
    from node.story import read_story

    story = read_story(Client(rpc), _task_id(task_id))
    if not json:
        for line in story.lines:
            print(line)
    _print_story(story, json)


@model.command("list")
def model_list(rpc: Rpc = DEFAULT_RPC, json: AsJson = False) -> None:
    """Show the chain's models, who serves them, and what the node has of them."""
    from node.catalogue import list_models
    from node.client import Client

    list_models(Client(rpc), json)


@model.command("register")
@sending
def model_register(
    sender: Sender,
    folder: ModelDir,
    name: Annotated[str | None, typer.Option(help="Its name on the chain (default: the manifest's).")] = None,
    uri: Annotated[str, typer.Option(help="Where people read about it.")] = "",
    macs_per_block: Annotated[
        int | None, typer.Option(min=1, max=2**64 - 1, help="What deadlines count on (default: measured here).")
    ] = None,
) -> None:
    """Register a model that passes its check, so that tasks may name it."""
    from node.catalogue import register

    sender.report(register(sender.operator, sender.folder, folder, sender.config, name, uri, macs_per_block))


@model.command("fetch")
def model_fetch(
    model: Annotated[str, typer.Argument(metavar="ID", help="Its id, or its name on the chain.")],
    peer: Annotated[str | None, typer.Option("--from", help="A peer that has it: id@host:port.")] = None,
    path: Annotated[Path | None, typer.Option(help="Its folder on this machine, instead of peers.")] = None,
    rpc: Annotated[
        str | None, typer.Option("--rpc", envvar="LABORA_RPC", help="The node (default: the data folder's).")
    ] = None,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Bring a model into the node's folder, from its peers or a local folder, and check it."""
    from node.catalogue import fetch, take

    folder = _data_folder(data_dir)
    if path is None:
        fetch(rpc, folder, model, peer, json)
        return
    if peer is not None:
        raise Fatal(USAGE, "give --from or --path, not both")
    take(folder, _load_config(folder, {}), model, path, json)


@model.command("remove")
def model_remove(
    model: Annotated[str, typer.Argument(metavar="ID", help="Its id, or its name on the chain.")],
    rpc: Annotated[
        str | None, typer.Option("--rpc", envvar="LABORA_RPC", help="The node (default: the data folder's).")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Delete a model from the node's folder, whole or not."""
    from node.catalogue import remove

    remove(rpc, _data_folder(data_dir), model)


@model.command("import")
def model_import(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A Hugging Face folder, or a GGUF file.")],
    out: Annotated[Path | None, typer.Option(help="New folder (default: ./<name of PATH>-labora).")] = None,
    text: Annotated[Path | None, typer.Option(help="Text to measure quality on (default: the shipped one).")] = None,
    max_loss: Annotated[str | None, typer.Option(help="Most that quality may lose, such as 0.5%.")] = None,
    positions: Annotated[int, typer.Option(min=16, max=1 << 20, help="Tokens to measure quality on.")] = 4096,
    name: Annotated[str | None, typer.Option(help="The model's name (default: that of PATH).")] = None,
    licence: Annotated[str, typer.Option(help="The weights' licence, for the manifest.")] = "",
    threads: Threads = 1,
    json: AsJson = False,
) -> None:
    """Turn a float checkpoint into an exact integer program, and say what that costs in quality."""
    from node.model import import_checkpoint

    import_checkpoint(path, out, text, max_loss, positions, name, licence, threads, json)


@model.command("check")
def model_check(folder: ModelDir) -> None:
    """Verify a model's hashes, bounds and known answers."""
    from node.model import check

    check(folder)


@model.command("run")
def model_run(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The model's folder; with openai, its name there.")],
    prompt: Annotated[str, typer.Option(help="What to continue.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, max=65535.0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Sample among so many; 0: all.")] = 0,
    seed: Annotated[str, typer.Option(help="Seed of sampling, in hex.")] = "0",
    engine: Annotated[
        RunEngine, typer.Option(help="What computes; the bits are the same, but for openai: floats of a server.")
    ] = RunEngine.AUTO,
    device: Annotated[Device, typer.Option(help="Where torch computes.")] = Device.CPU,
    threads: Threads = 1,
    url: Annotated[str | None, typer.Option(help="With openai: the server's address, up to /v1.")] = None,
    check: Annotated[str | None, typer.Option(help="With openai: another server, to check the answer by.")] = None,
    api_key: Annotated[str, typer.Option(envvar="LABORA_API_KEY", help="With openai: what the server asks for.")] = "",
    json: AsJson = False,
) -> None:
    """Continue a text, without a chain: exactly, on this machine, or by an OpenAI-compatible server."""
    from node.model import run as run_model
    from node.model import seed_of

    if engine is RunEngine.OPENAI:
        from node.tolerant import run as run_tolerant

        if url is None:
            raise Fatal(USAGE, "--engine openai needs --url, the server's address")
        run_tolerant(
            url, folder, api_key, prompt, max_tokens, temperature, top_k, seed_of(seed), check, json
        )
        return
    if url is not None or check is not None:
        raise Fatal(USAGE, "--url and --check are for --engine openai")
    run_model(Path(folder), prompt, max_tokens, temperature, top_k, seed, engine.value, device.value, threads, json)


@model.command("embed")
def model_embed(
    folder: ModelDir,
    text: Annotated[str, typer.Option(help="What to embed.")],
    engine: Annotated[Engine, typer.Option(help="What computes; the bits are the same.")] = Engine.AUTO,
    device: Annotated[Device, typer.Option(help="Where torch computes.")] = Device.CPU,
    threads: Threads = 1,
    json: AsJson = False,
) -> None:
    """Make a text's vector on this machine, without a chain."""
    from node.model import embed as embed_text

    embed_text(folder, text, engine.value, device.value, threads, json)


@model.command("bench")
def model_bench(
    folder: ModelDir,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each measurement.")] = 5,
    threads: Threads = 1,
    json: AsJson = False,
) -> None:
    """Measure prefill and decode speed of each engine."""
    from node.model import bench

    bench(folder, repeats, threads, json)


@validator.command("register")
@sending
def validator_register(
    sender: Sender,
    bond: Annotated[str | None, typer.Option(help="Coins at stake (default: the chain's least).")] = None,
    payout: Annotated[str | None, typer.Option(help="Where fees go (default: the operator's account).")] = None,
) -> None:
    """Register this folder's keys under the operator's account, with a bond."""
    from node.validator import register

    sender.report(register(sender.operator, sender.folder, sender.config, bond, payout))


@validator.command("bond")
@sending
def validator_bond(
    sender: Sender,
    amount: Annotated[str, typer.Argument(help="Coins.")],
) -> None:
    """Add to the bond."""
    from node.validator import bond

    sender.report(bond(sender.operator, amount))


@validator.command("unbond")
@sending
def validator_unbond(
    sender: Sender,
    amount: Annotated[str | None, typer.Argument(help="Coins.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole bond.")] = False,
) -> None:
    """Begin to take back a part of the bond, or all of it."""
    from node.exits import USAGE
    from node.validator import unbond

    if (amount is None) != everything:
        raise Fatal(USAGE, "say how many coins, or --all")
    sender.report(unbond(sender.operator, amount))


@validator.command("withdraw")
@sending
def validator_withdraw(sender: Sender) -> None:
    """Fetch what has finished unbonding."""
    from node.validator import withdraw

    sender.report(withdraw(sender.operator))


@validator.command("commission")
@sending
def validator_commission(
    sender: Sender, percent: Annotated[str, typer.Argument(help="Of what delegated stake earns: 0 to 100.")]
) -> None:
    """Declare what the operator keeps of its delegators' fees; a change is in force two epochs later."""
    from node.delegate import commission

    sender.report(commission(sender.operator, percent))


@app.command("delegate")
@sending
def delegate_command(
    sender: Sender,
    operator: Annotated[str, typer.Argument(help="Address of the operator.")],
    amount: Annotated[str, typer.Argument(help="Coins.")],
) -> None:
    """Put coins behind an operator: they share its fees, less its commission, and its slashes."""
    from node.delegate import delegate

    sender.report(delegate(sender.operator, operator, amount))


@app.command("undelegate")
@sending
def undelegate_command(
    sender: Sender,
    operator: Annotated[str, typer.Argument(help="Address of the operator.")],
    amount: Annotated[str | None, typer.Argument(help="Coins.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Begin to take back what is delegated to an operator."""
    from node.delegate import undelegate
    from node.exits import USAGE

    if (amount is None) != everything:
        raise Fatal(USAGE, "say how many coins, or --all")
    sender.report(undelegate(sender.operator, operator, amount))


@app.command("claim")
@sending
def claim_command(
    sender: Sender, operator: Annotated[str, typer.Argument(help="Address of the operator.")]
) -> None:
    """Fetch the rewards of a delegation, and what has finished leaving."""
    from node.delegate import claim

    sender.report(claim(sender.operator, operator))


@validator.command("serve")
@sending
def validator_serve(
    sender: Sender,
    model: Annotated[str | None, typer.Option(help="Name or id (default: the chain's first).")] = None,
    macs_per_block: Annotated[
        int | None, typer.Option(min=1, max=2**64 - 1, help="The rate (default: measured on this machine).")
    ] = None,
) -> None:
    """Declare that this validator runs a model, and how fast."""
    from node.validator import serve

    sender.report(serve(sender.operator, sender.folder, sender.config, model, macs_per_block))


@validator.command("stop-serving")
@sending
def validator_stop_serving(
    sender: Sender,
    model: Annotated[str | None, typer.Option(help="Name or id (default: the only one that is served).")] = None,
) -> None:
    """Take no more tasks of a model."""
    from node.validator import stop_serving

    sender.report(stop_serving(sender.operator, model))


@validator.command("declare")
@sending
def validator_declare(
    sender: Sender,
    reserve_price: Annotated[int, typer.Option(min=0, help="Least wei a CWU, tip included.")] = 0,
    hours: Annotated[str, typer.Option(help="Hours UTC in which it works, as 8-18 or 22-6,12 (all).")] = "",
    refuse_kind: Annotated[list[TaskKind] | None, typer.Option(help="Not this kind; may be repeated.")] = None,
    refuse_model: Annotated[list[str] | None, typer.Option(help="Not this model; may be repeated.")] = None,
    macs_max: Annotated[int, typer.Option(min=0, help="Multiply-adds of the largest task (0: any).")] = 0,
) -> None:
    """Say ahead what this validator does not take, from the epoch after next on."""
    from node.declare import declare

    kinds = [kind.value for kind in refuse_kind or []]
    sender.report(declare(sender.operator, reserve_price, hours, kinds, refuse_model or [], macs_max))


@validator.command("estimate")
def validator_estimate(
    model: Annotated[str | None, typer.Option(help="Name or id (default: the chain's first).")] = None,
    bond: Annotated[str | None, typer.Option(help="Coins at stake (default: the chain's least).")] = None,
    macs_per_second: Annotated[int | None, typer.Option(min=1, help="Speed (default: measured here).")] = None,
    rpc: Rpc = DEFAULT_RPC,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Say what this machine would earn at today's load and price."""
    from node.client import Client
    from node.estimate import estimate

    folder = _data_folder(data_dir)
    sender = Sender(rpc, data_dir=data_dir, json=json)
    sender.report(estimate(Client(rpc), folder, sender.config, model, bond, macs_per_second))


@validator.command("status")
def validator_status(
    operator: Annotated[str | None, typer.Option(help="Only this operator.")] = None,
    rpc: Rpc = DEFAULT_RPC,
    json: AsJson = False,
) -> None:
    """Show the operators: bond, share of the votes, credit, this epoch's tasks, misses and slashes with reasons."""
    import json as codec

    from node.client import Client
    from node.standing import lines, status

    client = Client(rpc)
    rows = status(client, operator)
    if json:
        print(codec.dumps(rows if operator is None else rows[0], indent=1))
        return
    for line in lines(client, rows):
        print(line)


FromBlock = Annotated[int, typer.Option("--from", min=0, help="First block.")]
ToBlock = Annotated[int | None, typer.Option("--to", min=0, help="Last block (default: the head).")]


@receipts.command("list")
def receipts_list(
    first: FromBlock = 0, last: ToBlock = None, rpc: Rpc = DEFAULT_RPC, json: AsJson = False
) -> None:
    """List the receipts of a range of blocks; with --json one object a line."""
    import json as codec

    from node.client import Client
    from node.receipts import accounts, as_json, height_of, line

    client = Client(rpc)
    for account in accounts(client, first, height_of(client) if last is None else last):
        print(codec.dumps(as_json(account)) if json else line(account))


@receipts.command("show")
def receipts_show(
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")], rpc: Rpc = DEFAULT_RPC
) -> None:
    """Print a task's receipt, as docs/receipts.md describes it."""
    import json as codec

    from node.client import Client
    from node.receipts import account_of, as_json

    print(codec.dumps(as_json(account_of(Client(rpc), _task_id(task_id))), indent=1))


@receipts.command("export")
def receipts_export(
    to_file: Annotated[Path, typer.Option("--csv", help="File to write, in the columns of FinOps FOCUS 1.2.")],
    first: FromBlock = 0,
    last: ToBlock = None,
    rpc: Rpc = DEFAULT_RPC,
) -> None:
    """Write the receipts of a range of blocks as a bill."""
    from node import focus
    from node.client import Client
    from node.meter import meter
    from node.receipts import accounts, height_of, time_of

    client = Client(rpc)
    end = height_of(client) if last is None else last
    chain = f"eip155:{client.number('eth_chainId')}"
    with meter("blocks") as told, to_file.open("w", newline="", encoding="utf-8") as file:
        found = ((account, time_of(client, account.block)) for account in accounts(client, first, end, told))
        rows = focus.write(found, chain, file)
    print(f"{rows} receipts of blocks {first} to {end} in {to_file} (FOCUS {focus.FOCUS_VERSION})")


@receipts.command("verify")
def receipts_verify(
    first: FromBlock = 0, last: ToBlock = None, rpc: Rpc = DEFAULT_RPC, json: AsJson = False
) -> None:
    """Recompute every receipt of a range of blocks from the chain's data alone; fails at the first difference."""
    import json as codec

    from node.client import Client
    from node.meter import meter
    from node.recount import Difference, verify
    from rpc.task_story import cwu_text

    try:
        with meter("blocks") as told:
            found = verify(Client(rpc), first, last, told)
    except Difference as difference:
        if json:
            print(codec.dumps({"ok": False, **difference.as_json()}))
        raise
    if json:
        print(codec.dumps(found.as_json()))
        return
    print(
        f"blocks {found.first} to {found.last}: {found.receipts} receipts over {cwu_text(found.macs)} CWU and the "
        f"roots of {found.epochs} epochs follow from the chain's data"
    )


@receipts.command("prove")
def receipts_prove(
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    trusted_set: Annotated[
        str | None, typer.Option(help="Hash of a validator set that the reader trusts (default: from genesis on).")
    ] = None,
    rpc: Rpc = DEFAULT_RPC,
) -> None:
    """Write a proof of a task's receipt that docs/verify_receipt.py checks without a node."""
    import json as codec

    from node.client import Client
    from node.meter import meter
    from node.prove import prove
    from node.receipts import account_of

    client, trusted = Client(rpc), None if trusted_set is None else _hash(trusted_set, "hash of a validator set")
    with meter("epochs") as told:
        proof = prove(client, account_of(client, _task_id(task_id)), trusted, told)
    out.write_text(codec.dumps(proof) + "\n", encoding="utf-8")
    print(f"proof of {task_id} in {out}: {out.stat().st_size:,} bytes, genesis {proof['genesis']}")


@app.command()
def config(data_dir: DataDir = None) -> None:
    """Print the configuration in force and where things are."""
    from node.config import to_toml

    folder = _data_folder(data_dir)
    print(to_toml(_load_config(folder, {})), end="")
    print(f"\n# data folder {folder.root}")
    for name in ("config", "genesis", "keys", "keystore", "chain", "wal", "signer", "journal", "models"):
        print(f"#   {name:<9} {getattr(folder, name)}")


@app.command()
def version() -> None:
    """Print the version."""
    print(f"labora {program_version()}")


def program_version() -> str:
    """The installed distribution's version; `source` in a checkout that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("labora")
    except metadata.PackageNotFoundError:
        return "source"


def _data_folder(data_dir: Path | None) -> Any:
    from node.config import DataFolder, default_data_dir

    return DataFolder((data_dir or default_data_dir()).absolute())


def _load_config(folder: Any, flags: dict[str, Any]) -> Any:
    import os

    from node.config import load

    return load(folder.config, os.environ, flags)


def _task_id(text: str) -> bytes:
    return _hash(text, "task id")


def _hash(text: str, what: str) -> bytes:
    try:
        identifier = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        identifier = b""
    if len(identifier) != 32:
        raise Fatal(USAGE, f"{text!r} is no {what} (32 bytes in hex)")
    return identifier


def _write(text: str) -> None:
    """Print a piece of a line at once."""
    print(text, end="", flush=True)


def _quiet(_line: str) -> None:
    """Say nothing."""


def _print_scores(requests: list[Any], stories: list[Any], as_json: bool) -> None:
    """Of each label, or of the text itself, how likely the model finds it; the likeliest label."""
    from node.score import best, scored, shares

    found = [
        scored(request.label or request.prompt, len(request.given(story.client)) if request.label else 1, story)
        for request, story in zip(requests, stories, strict=True)
    ]
    parts = shares(found)
    if as_json:
        import json as codec

        chosen = best(found).text if requests[0].label else None
        scores = [each.as_json(part) for each, part in zip(found, parts, strict=True)]
        print(codec.dumps({"best": chosen, "scores": scores, "tasks": [story.as_json() for story in stories]}))
        return
    print()
    for each, part in zip(found, parts, strict=True):
        share = f"  {100 * part:6.2f} %" if len(found) > 1 else ""
        print(f"{each.bits:12.4f} bits over {each.tokens} tokens{share}  {each.text}")
    print()
    if requests[0].label:
        print(best(found).text)
    for story in stories:
        print(f"status {story.status.name.lower()}, receipt {story.receipt}")


def _print_story(story: Any, as_json: bool) -> None:
    if as_json:
        import json as codec

        print(codec.dumps(story.as_json()))
        return
    from node.words import printable

    if story.vector is not None:
        print(f"\n{story.vector}\n")
    if story.output:
        print(f"\n{printable(story.prompt + story.output)}\n")
    print(f"status {story.status.name.lower()}")
    if story.receipt is not None:
        print(f"receipt {story.receipt}")
