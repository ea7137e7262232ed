"""labora validator, and delegate, undelegate and claim: an operator's commands, and those of who trusts one."""

from typing import Annotated

import typer

from node.cli_options import (
    DEFAULT_RPC,
    Amount,
    AnyAmount,
    AnyModel,
    AsJson,
    DataDir,
    Everything,
    OperatorAddress,
    Rpc,
    Sender,
    TaskKind,
    connect,
    data_folder,
    print_json,
    require_part,
    sending,
)

commands = typer.Typer(help="Validators: register, bond, serve, status.", no_args_is_help=True, rich_markup_mode=None)
delegators = typer.Typer(rich_markup_mode=None)
"""At the top of the command line: labora delegate, undelegate, claim."""


@commands.command("register")
@sending
def validator_register(
    sender: Sender,
    bond: Annotated[str | None, typer.Option(help="Coins at stake (default: the chain's least).")] = None,
    payout: Annotated[str | None, typer.Option(help="Where fees go (default: the operator's account).")] = None,
) -> None:
    """Register this folder's keys under the operator's account, with a bond."""
    from node.validator import register

    sender.report(register(sender.operator, sender.folder, sender.config, bond, payout))


@commands.command("bond")
@sending
def validator_bond(
    sender: Sender,
    amount: Amount,
) -> None:
    """Add to the bond."""
    from node.validator import bond

    sender.report(bond(sender.operator, amount))


@commands.command("unbond")
@sending
def validator_unbond(
    sender: Sender,
    amount: AnyAmount = None,
    everything: Everything = False,
) -> None:
    """Begin to take back a part of the bond, or all of it."""
    from node.validator import unbond

    require_part(amount, everything)
    sender.report(unbond(sender.operator, amount))


@commands.command("withdraw")
@sending
def validator_withdraw(sender: Sender) -> None:
    """Fetch what has finished unbonding."""
    from node.validator import withdraw

    sender.report(withdraw(sender.operator))


@commands.command("commission")
@sending
def validator_commission(
    sender: Sender, percent: Annotated[str, typer.Argument(help="Of what delegated stake earns: 0 to 100.")]
) -> None:
    """Declare what the operator keeps of its delegators' fees; a change is in force two epochs later."""
    from node.delegate import commission

    sender.report(commission(sender.operator, percent))


@delegators.command("delegate")
@sending
def delegate_command(
    sender: Sender,
    operator: OperatorAddress,
    amount: Amount,
) -> None:
    """Put coins behind an operator: they share its fees, less its commission, and its slashes."""
    from node.delegate import delegate

    sender.report(delegate(sender.operator, operator, amount))


@delegators.command("undelegate")
@sending
def undelegate_command(
    sender: Sender,
    operator: OperatorAddress,
    amount: AnyAmount = None,
    everything: Everything = False,
) -> None:
    """Begin to take back what is delegated to an operator."""
    from node.delegate import undelegate

    require_part(amount, everything)
    sender.report(undelegate(sender.operator, operator, amount))


@delegators.command("claim")
@sending
def claim_command(sender: Sender, operator: OperatorAddress) -> None:
    """Fetch the rewards of a delegation, and what has finished leaving."""
    from node.delegate import claim

    sender.report(claim(sender.operator, operator))


@commands.command("serve")
@sending
def validator_serve(
    sender: Sender,
    model: AnyModel = None,
    macs_per_block: Annotated[
        int | None, typer.Option(min=1, max=2**64 - 1, help="The rate (default: measured on this machine).")
    ] = None,
) -> None:
    """Declare that this validator runs a model, and how fast."""
    from node.validator import serve

    sender.report(serve(sender.operator, sender.folder, sender.config, model, macs_per_block))


@commands.command("stop-serving")
@sending
def validator_stop_serving(
    sender: Sender,
    model: Annotated[str | None, typer.Option(help="Name or id (default: the only one that is served).")] = None,
) -> None:
    """Take no more tasks of a model."""
    from node.validator import stop_serving

    sender.report(stop_serving(sender.operator, model))


@commands.command("declare")
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


@commands.command("estimate")
def validator_estimate(
    model: AnyModel = None,
    bond: Annotated[str | None, typer.Option(help="Coins at stake (default: the chain's least).")] = None,
    macs_per_second: Annotated[int | None, typer.Option(min=1, help="Speed (default: measured here).")] = None,
    rpc: Rpc = DEFAULT_RPC,
    data_dir: DataDir = None,
    json: AsJson = False,
) -> None:
    """Say what this machine would earn at today's load and price."""
    from node.estimate import estimate

    folder = data_folder(data_dir)
    sender = Sender(rpc, data_dir=data_dir, json=json)
    sender.report(estimate(connect(rpc), folder, sender.config, model, bond, macs_per_second))


@commands.command("status")
def validator_status(
    operator: Annotated[str | None, typer.Option(help="Only this operator.")] = None,
    rpc: Rpc = DEFAULT_RPC,
    json: AsJson = False,
) -> None:
    """Show the operators: bond, share of the votes, credit, this epoch's tasks, misses and slashes with reasons."""
    from node.standing import lines, status

    client = connect(rpc)
    rows = status(client, operator)
    if json:
        print_json(rows if operator is None else rows[0], indent=1)
        return
    for line in lines(client, rows):
        print(line)
