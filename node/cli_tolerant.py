"""labora tolerant: float models of operators, asked and paid without any proof. The work is node.tolerant_lane's."""

from enum import StrEnum
from typing import Annotated

import typer

from node.cli_options import DEFAULT_RPC, AsJson, Rpc, Sender, TaskId, connect, hash_of, print_json, sending
from node.exits import USAGE, Fatal

commands = typer.Typer(
    help="The tolerant lane: float models, never verified: offers, ask, accept, refuse.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip


class Decision(StrEnum):
    """What becomes of an answer when it is here."""

    LATER = "later"
    ACCEPT = "accept"
    CHECK = "check"


@commands.command("offers")
def tolerant_offers(rpc: Rpc = DEFAULT_RPC, json: AsJson = False) -> None:
    """Show who offers which model at what price, and how its tasks ended so far."""
    from node.tolerant_lane import offer_lines, offers

    found = offers(connect(rpc))
    if json:
        print_json(found)
        return
    for line in offer_lines(found):
        print(line)


@commands.command("ask")
@sending
def tolerant_ask(
    sender: Sender,
    prompt: Annotated[str, typer.Argument(help="What to continue.")],
    executor: Annotated[str, typer.Option(help="The operator that is to answer.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=1, help="Draw among so many likeliest tokens.")] = 20,
    seed: Annotated[str | None, typer.Option(help="Of the draw, 32 bytes in hex (default: random).")] = None,
    check_url: Annotated[str | None, typer.Option(help="A server of yours, up to /v1, to check margins by.")] = None,
    check_model: Annotated[str, typer.Option(help="The model's name there (default: as it was offered).")] = "",
    api_key: Annotated[str, typer.Option(envvar="LABORA_API_KEY", help="What that server asks for.")] = "",
    decision: Annotated[
        Decision, typer.Option("--then", help="check: accept it if its margins are small, else refuse it.")
    ] = Decision.LATER,
) -> None:
    """Ask an operator, wait for its answer, check it if told to, and say how to accept or refuse it."""
    from node.tolerant_lane import (
        Judge,
        Question,
        answer_json,
        answer_lines,
        ask,
        decide,
        decided,
        judged,
        new_seed,
        wait_for_answer,
        why_refused,
    )
    from primitives.task import Status
    from vm.system import abi

    if decision is Decision.CHECK and check_url is None:
        raise Fatal(USAGE, "--then check needs --check-url")
    chosen = new_seed() if seed is None else hash_of(seed, "seed")
    asker = sender.operator
    done = ask(asker, executor, Question(prompt, max_tokens, temperature, top_k, chosen))
    task = done.event(abi.TOLERANT_ASKED)["task"]
    if not sender.json:
        print(f"task 0x{task.hex()}", flush=True)
    story = wait_for_answer(asker.client, task)
    report = None
    if check_url is not None and story.status is Status.ANSWERED:
        report = judged(story, Judge(check_url, check_model, api_key))
    shown = answer_json(story, report, check_url)
    if not sender.json:
        for line in answer_lines(story, report, check_url):
            print(line)
    if decision is not Decision.LATER and story.status is Status.ANSWERED:
        bad = decision is Decision.CHECK and report is not None and not report.within
        refusal = why_refused(report) if bad and report is not None else None
        end = decided(decide(asker, task, refusal), task, refusal)
        shown |= {"end": end.values["end"]}
        if not sender.json:
            sender.report(end)
    if sender.json:
        print_json(shown)


@commands.command("accept")
@sending
def tolerant_accept(sender: Sender, task_id: TaskId) -> None:
    """Pay for an answer."""
    from node.tolerant_lane import decide, decided

    task = hash_of(task_id)
    sender.report(decided(decide(sender.operator, task, None), task, None))


@commands.command("refuse")
@sending
def tolerant_refuse(
    sender: Sender,
    task_id: TaskId,
    reason: Annotated[str, typer.Option(help="Why, for the record of both.")],
) -> None:
    """Refuse an answer: the escrow comes back less the fifth that a payment burns."""
    from node.tolerant_lane import decide, decided

    task = hash_of(task_id)
    sender.report(decided(decide(sender.operator, task, reason), task, reason))
