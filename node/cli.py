"""The command line: its entry, and the commands of nodes and accounts. Those of tasks, models, validators and receipts
stand in files of their own (cli_*.py).

Each command imports what it needs when it runs, so that `labora --help` answers at once. Exit codes are those of
node.exits; an error is one line that says what to do next.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from node import cli_model, cli_receipts, cli_task, cli_tolerant, cli_validator
from node.cli_options import DataDir, Engine, Passphrase, choosing, data_folder, load_config
from node.exits import DISK, INTERRUPTED, OK, Fatal

app = typer.Typer(
    name="labora",
    help="A standalone blockchain node whose consensus is proof of useful work: AI inference, checked bit for bit.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
account = typer.Typer(help="Accounts: keys that sign transactions.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(account, name="account")
app.add_typer(cli_task.commands, name="task")
app.add_typer(cli_tolerant.commands, name="tolerant")
app.add_typer(cli_model.commands, name="model")
app.add_typer(cli_validator.commands, name="validator")
app.add_typer(cli_receipts.commands, name="receipts")
app.add_typer(cli_validator.delegators)


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
    port: Annotated[int, typer.Option(min=0, max=63_000, help="First JSON-RPC port; 0: free ones.")] = 8545,
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
    passphrase_file: Passphrase = None,
) -> None:
    """Make a node's folder: configuration, genesis, keys. Prints the genesis hash."""
    from node.init import initialise

    initialise(data_folder(data_dir), genesis, as_validator, passphrase_file)


@app.command()
@choosing
def run(
    flags: dict[str, object],
    data_dir: DataDir = None,
    new_signer: Annotated[
        bool, typer.Option("--new-signer", help="Start a missing signer anew; it stays silent for 2n heights.")
    ] = False,
) -> None:
    """Run one node in the foreground. Every flag below --new-signer is also a key of config.toml and a variable."""
    folder = data_folder(data_dir)
    settings = load_config(folder, flags)
    from node.node import run_node

    raise typer.Exit(run_node(folder, settings, new_signer))


@app.command()
def config(data_dir: DataDir = None) -> None:
    """Print the configuration in force and where things are."""
    from node.config import to_toml

    folder = data_folder(data_dir)
    print(to_toml(load_config(folder, {})), end="")
    print(f"\n# data folder {folder.root}")
    for name in ("config", "genesis", "keys", "keystore", "chain", "wal", "signer", "journal", "models"):
        print(f"#   {name:<9} {getattr(folder, name)}")


@app.command()
def version() -> None:
    """Print the version."""
    print(f"labora {program_version()}")


@account.command("new")
def account_new(data_dir: DataDir = None) -> None:
    """Make an account and print its address."""
    from node.accounts import ask_passphrase
    from node.keys import find_passphrase, new_secret, write_keystore
    from primitives.address import checksum
    from primitives.keys import address_of

    keystore = data_folder(data_dir).keystore
    secret = new_secret()
    address = address_of(secret)
    write_keystore(keystore / f"{address.hex()}.json", secret, find_passphrase(None, keystore, ask_passphrase))
    print(checksum(address))


@account.command("list")
def account_list(data_dir: DataDir = None) -> None:
    """List the accounts that have a keystore."""
    from node.accounts import stored_accounts

    for address in stored_accounts(data_folder(data_dir).keystore):
        print(address)


def program_version() -> str:
    """The installed distribution's version; `source` in a checkout that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("labora")
    except metadata.PackageNotFoundError:
        return "source"
