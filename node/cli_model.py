"""labora model: a model's folder on this machine (node.model), and models of a chain (node.catalogue)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from node.cli_options import (
    DEFAULT_RPC,
    AnyDevice,
    AnyEngine,
    AsJson,
    DataDir,
    Device,
    Engine,
    FolderRpc,
    ModelDir,
    ModelId,
    Rpc,
    Sender,
    Threads,
    connect,
    data_folder,
    load_config,
    sending,
)
from node.exits import USAGE, Fatal

commands = typer.Typer(help="Models: import, run, register, fetch, list.", no_args_is_help=True, rich_markup_mode=None)


class RunEngine(StrEnum):
    """What continues a text: an exact engine, or somebody's server of the tolerant lane."""

    AUTO = "auto"
    TORCH = "torch"
    NUMPY = "numpy"
    OPENAI = "openai"


@commands.command("list")
def model_list(rpc: Rpc = DEFAULT_RPC, json: AsJson = False) -> None:
    """Show the chain's models, who serves them, and what the node has of them."""
    from node.catalogue import list_models

    list_models(connect(rpc), json)


@commands.command("register")
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


@commands.command("fetch")
def model_fetch(
    model: ModelId,
    peer: Annotated[str | None, typer.Option("--from", help="A peer that has it: id@host:port.")] = None,
    path: Annotated[Path | None, typer.Option(help="Its folder on this machine, instead of peers.")] = None,
    rpc: FolderRpc = None,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Bring a model into the node's folder, from its peers or a local folder, and check it."""
    from node.catalogue import fetch, take

    folder = data_folder(data_dir)
    if path is None:
        fetch(rpc, folder, model, peer, json)
        return
    if peer is not None:
        raise Fatal(USAGE, "give --from or --path, not both")
    take(folder, load_config(folder, {}), model, path, json)


@commands.command("remove")
def model_remove(
    model: ModelId,
    rpc: FolderRpc = None,
    data_dir: DataDir = None,
) -> None:
    """Delete a model from the node's folder, whole or not."""
    from node.catalogue import remove

    remove(rpc, data_folder(data_dir), model)


@commands.command("import")
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


@commands.command("check")
def model_check(folder: ModelDir) -> None:
    """Verify a model's hashes, bounds and known answers."""
    from node.model import check

    check(folder)


@commands.command("run")
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
    device: AnyDevice = Device.CPU,
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
        run_tolerant(url, folder, api_key, prompt, max_tokens, temperature, top_k, seed_of(seed), check, json)
        return
    if url is not None or check is not None:
        raise Fatal(USAGE, "--url and --check are for --engine openai")
    run_model(Path(folder), prompt, max_tokens, temperature, top_k, seed, engine.value, device.value, threads, json)


@commands.command("embed")
def model_embed(
    folder: ModelDir,
    text: Annotated[str, typer.Option(help="What to embed.")],
    engine: AnyEngine = Engine.AUTO,
    device: AnyDevice = Device.CPU,
    threads: Threads = 1,
    json: AsJson = False,
) -> None:
    """Make a text's vector on this machine, without a chain."""
    from node.model import embed as embed_text

    embed_text(folder, text, engine.value, device.value, threads, json)


@commands.command("bench")
def model_bench(
    folder: ModelDir,
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each measurement.")] = 5,
    threads: Threads = 1,
    json: AsJson = False,
) -> None:
    """Measure prefill and decode speed of each engine."""
    from node.model import bench

    bench(folder, repeats, threads, json)
