"""What the commands of the command line share: options, who sends a transaction, how things are printed.

Knows no command. Imports what it needs when a command runs, as the commands do.
"""

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from node.config import DESCRIPTIONS, UNSAID, NodeConfig
from node.exits import USAGE, Fatal

DEFAULT_RPC = "http://127.0.0.1:8545"


class Engine(StrEnum):
    """What runs the models."""

    AUTO = "auto"
    TORCH = "torch"
    NUMPY = "numpy"


class Device(StrEnum):
    """Where torch computes."""

    CPU = "cpu"
    CUDA = "cuda"


class TaskKind(StrEnum):
    """What a task asks for."""

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The node's folder (LABORA_DATA_DIR).")]
Rpc = Annotated[str, typer.Option("--rpc", envvar="LABORA_RPC", help="JSON-RPC address of a node.")]
FolderRpc = Annotated[
    str | None, typer.Option("--rpc", envvar="LABORA_RPC", help="The node (default: the data folder's).")
]
Key = Annotated[str | None, typer.Option("--key", envvar="LABORA_KEY", help="Private key in hex.")]
Account = Annotated[str | None, typer.Option("--account", help="Number of a devnet account, or an address.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Passphrase = Annotated[Path | None, typer.Option(help="File with the keys' passphrase.")]
TaskId = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]
OperatorAddress = Annotated[str, typer.Argument(help="Address of the operator.")]
Amount = Annotated[str, typer.Argument(help="Coins.")]
AnyAmount = Annotated[str | None, typer.Argument(help="Coins.")]
Everything = Annotated[bool, typer.Option("--all", help="All there is.")]
AnyModel = Annotated[str | None, typer.Option(help="Name or id (default: the chain's first).")]
ModelId = Annotated[str, typer.Argument(metavar="ID", help="Its id, or its name on the chain.")]
ModelDir = Annotated[Path, typer.Argument(metavar="DIR", help="The model's folder.")]
AnyEngine = Annotated[Engine, typer.Option(help="What computes; the bits are the same.")]
AnyDevice = Annotated[Device, typer.Option(help="Where torch computes.")]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")]
FromBlock = Annotated[int, typer.Option("--from", min=0, help="First block.")]
ToBlock = Annotated[int | None, typer.Option("--to", min=0, help="Last block (default: the head).")]


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
        return data_folder(self.data_dir)

    @property
    def config(self) -> Any:
        return load_config(self.folder, {})

    @property
    def operator(self) -> Any:
        from node.accounts import choose_key
        from node.validator import Operator

        client = connect(self.rpc)
        return Operator(client, choose_key(self.key, self.account, client.number("eth_chainId"), self.folder.keystore))

    def report(self, report: Any) -> None:
        """Print a node.validator.Report."""
        if self.json:
            print_json(report.values)
            return
        for line in report.lines:
            print(line)


Command = Callable[..., None]


def _adding(options: list[inspect.Parameter], gather: Callable[[dict[str, Any]], Any]) -> Callable[[Command], Command]:
    """Decorator of a command whose first parameter is what `gather` makes of these options; its own come first."""

    def decorate(command: Command) -> Command:
        own = list(inspect.signature(command).parameters.values())[1:]

        @functools.wraps(command)
        def asked(**given: Any) -> None:
            command(gather({option.name: given.pop(option.name) for option in options}), **given)

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *options)]
        asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        asked.__annotations__ = {each.name: each.annotation for each in parameters}
        return asked

    return decorate


def _choices() -> list[inspect.Parameter]:
    """A flag of every key of the configuration; None where it is not given."""
    found = []
    for field in fields(NodeConfig):
        if field.name in UNSAID:
            continue
        several = isinstance(field.default, tuple)
        kind = list[str] if several else type(field.default)
        names = ["--" + field.name.replace("_", "-").replace("peers", "peer")] if several else []
        meaning = DESCRIPTIONS[field.name]
        help_text = f"{meaning[0].upper()}{meaning[1:]}{'; may be repeated' if several else ''}."
        option = Annotated[kind | None, typer.Option(*names, help=help_text)]
        found.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option))
    return found


sending = _adding(list(inspect.signature(Sender).parameters.values()), lambda given: Sender(**given))
"""A command whose first parameter is a Sender."""
choosing = _adding(_choices(), lambda given: {name: None if value == [] else value for name, value in given.items()})
"""A command whose first parameter is what it was told of the configuration: key -> value, None where nothing."""


def connect(rpc: str) -> Any:
    """A client of that node."""
    from node.client import Client

    return Client(rpc)


def data_folder(data_dir: Path | None) -> Any:
    """The folder of the node: the one that is named, else the default."""
    from node.config import DataFolder, default_data_dir

    return DataFolder((data_dir or default_data_dir()).absolute())


def load_config(folder: Any, flags: Mapping[str, Any]) -> Any:
    """The configuration in force in a folder."""
    from node.config import load

    return load(folder.config, os.environ, flags)


def print_json(value: Any, indent: int | None = None) -> None:
    """One value as JSON."""
    print(json.dumps(value, indent=indent))


def hash_of(text: str, what: str = "task id") -> bytes:
    """32 bytes as a user types them. Raises Fatal."""
    try:
        identifier = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        identifier = b""
    if len(identifier) != 32:
        raise Fatal(USAGE, f"{text!r} is no {what} (32 bytes in hex)")
    return identifier


def require_part(amount: str | None, everything: bool) -> None:
    """Either an amount or --all. Raises Fatal."""
    if (amount is None) != everything:
        raise Fatal(USAGE, "say how many coins, or --all")
