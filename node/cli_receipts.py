"""labora receipts: list, show, export, verify, prove."""

import json as codec
from pathlib import Path
from typing import Annotated

import typer

from node.cli_options import (
    DEFAULT_RPC,
    AsJson,
    FromBlock,
    Rpc,
    TaskId,
    ToBlock,
    connect,
    hash_of,
    print_json,
)

commands = typer.Typer(
    help="Compute receipts: list, show, export, verify, prove.", no_args_is_help=True, rich_markup_mode=None
)


@commands.command("list")
def receipts_list(first: FromBlock = 0, last: ToBlock = None, rpc: Rpc = DEFAULT_RPC, json: AsJson = False) -> None:
    """List the receipts of a range of blocks; with --json one object a line."""
    from node.receipts import accounts, as_json, height_of, line

    client = connect(rpc)
    for account in accounts(client, first, height_of(client) if last is None else last):
        if json:
            print_json(as_json(account))
        else:
            print(line(account))


@commands.command("show")
def receipts_show(task_id: TaskId, rpc: Rpc = DEFAULT_RPC) -> None:
    """Print a task's receipt, as docs/receipts.md describes it."""
    from node.receipts import account_of, as_json

    print_json(as_json(account_of(connect(rpc), hash_of(task_id))), indent=1)


@commands.command("export")
def receipts_export(
    to_file: Annotated[Path, typer.Option("--csv", help="File to write, in the columns of FinOps FOCUS 1.2.")],
    first: FromBlock = 0,
    last: ToBlock = None,
    rpc: Rpc = DEFAULT_RPC,
) -> None:
    """Write the receipts of a range of blocks as a bill."""
    from node import focus
    from node.meter import meter
    from node.receipts import accounts, height_of, time_of

    client = connect(rpc)
    end = height_of(client) if last is None else last
    chain = f"eip155:{client.number('eth_chainId')}"
    with meter("blocks") as told, to_file.open("w", newline="", encoding="utf-8") as file:
        found = ((account, time_of(client, account.block)) for account in accounts(client, first, end, told))
        rows = focus.write(found, chain, file)
    print(f"{rows} receipts of blocks {first} to {end} in {to_file} (FOCUS {focus.FOCUS_VERSION})")


@commands.command("verify")
def receipts_verify(first: FromBlock = 0, last: ToBlock = None, rpc: Rpc = DEFAULT_RPC, json: AsJson = False) -> None:
    """Recompute every receipt of a range of blocks from the chain's data alone; fails at the first difference."""
    from node.meter import meter
    from node.recount import Difference, verify
    from rpc.task_story import cwu_text

    try:
        with meter("blocks") as told:
            found = verify(connect(rpc), first, last, told)
    except Difference as difference:
        if json:
            print_json({"ok": False, **difference.as_json()})
        raise
    if json:
        print_json(found.as_json())
        return
    print(
        f"blocks {found.first} to {found.last}: {found.receipts} receipts over {cwu_text(found.macs)} CWU and the "
        f"roots of {found.epochs} epochs follow from the chain's data"
    )


@commands.command("prove")
def receipts_prove(
    task_id: TaskId,
    out: Annotated[Path, typer.Option(help="File to write.")],
    trusted_set: Annotated[
        str | None, typer.Option(help="Hash of a validator set that the reader trusts (default: from genesis on).")
    ] = None,
    rpc: Rpc = DEFAULT_RPC,
) -> None:
    """Write a proof of a task's receipt that docs/verify_receipt.py checks without a node."""
    from node.meter import meter
    from node.prove import prove
    from node.receipts import account_of

    client, trusted = connect(rpc), None if trusted_set is None else hash_of(trusted_set, "hash of a validator set")
    with meter("epochs") as told:
        proof = prove(client, account_of(client, hash_of(task_id)), trusted, told)
    out.write_text(codec.dumps(proof) + "\n", encoding="utf-8")
    print(f"proof of {task_id} in {out}: {out.stat().st_size:,} bytes, genesis {proof['genesis']}")
