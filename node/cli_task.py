"""labora task: ask, follow, explain. The work is node.post's, node.watch's and node.story's."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from node.cli_options import (
    DEFAULT_RPC,
    AnyModel,
    AsJson,
    Rpc,
    Sender,
    TaskId,
    TaskKind,
    connect,
    hash_of,
    print_json,
    sending,
)
from node.exits import USAGE, Fatal

commands = typer.Typer(help="Inference tasks: ask, follow, explain.", no_args_is_help=True, rich_markup_mode=None)


class WaitFor(StrEnum):
    """How far a task goes before the command returns."""

    ANSWER = "answer"
    AGREED = "agreed"
    SETTLED = "settled"


@commands.command("post")
@sending
def task_post(
    sender: Sender,
    prompt: Annotated[str, typer.Argument(help="What to continue, to embed or to score; with --ids token ids.")],
    model: AnyModel = None,
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
) -> None:
    """Ask the chain's validators to continue, embed or score a text; print the answer and its story."""
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
    asker = sender.operator
    client = asker.client
    _, model_id = find_model(client, model)
    at_risk = 0 if value_at_risk is None else parse_coins(value_at_risk)
    requests = [
        Request(prompt, *sampling, assurance, model_id, Kind[kind.name], each, ids, tip, at_risk)
        for each in label or [""]
    ]
    posted = [post_task(client, asker.key, request)[0] for request in requests]
    stories = []
    for task_id in posted:
        if sender.json:
            stories.append(wait_for(client, task_id, Wait(wait.value), _quiet))
            continue
        print(f"task 0x{task_id.hex()}")
        watcher = Watcher(_write)
        stories.append(wait_for(client, task_id, Wait(wait.value), watcher.line, watcher))
    if kind is TaskKind.SCORE and all(story.vector for story in stories):
        _print_scores(requests, stories, sender.json)
        return
    for story in stories:
        _print_story(story, sender.json)


@commands.command("watch")
def task_watch(task_id: TaskId, rpc: Rpc = DEFAULT_RPC) -> None:
    """Follow a task until it has settled."""
    from node.post import Wait, wait_for
    from node.watch import Watcher

    watcher = Watcher(_write)
    story = wait_for(connect(rpc), hash_of(task_id), Wait.SETTLED, watcher.line, watcher)
    _print_story(story, as_json=False)


@commands.command("explain")
def task_explain(task_id: TaskId, rpc: Rpc = DEFAULT_RPC, json: AsJson = False) -> None:
    """Print a task's story again, from the chain alone."""
    from node.story import read_story

    story = read_story(connect(rpc), hash_of(task_id))
    if not json:
        for line in story.lines:
            print(line)
    _print_story(story, json)


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
        chosen = best(found).text if requests[0].label else None
        scores = [each.as_json(part) for each, part in zip(found, parts, strict=True)]
        print_json({"best": chosen, "scores": scores, "tasks": [story.as_json() for story in stories]})
        return
    print()
    for each, part in zip(found, parts, strict=True):
        share = f"  {100 * part:6.2f} %" if len(found) > 1 else ""
        over = f"{each.tokens} {'token ' if each.tokens == 1 else 'tokens'}"
        print(f"{each.bits:12.4f} bits over {over}{share}  {each.text}")
    print()
    if requests[0].label:
        print(best(found).text)
    for story in stories:
        print(f"status {story.status.name.lower()}, receipt {story.receipt}")


def _print_story(story: Any, as_json: bool) -> None:
    if as_json:
        print_json(story.as_json())
        return
    from node.words import printable

    if story.vector is not None:
        print(f"\n{story.vector}\n")
    if story.output:
        print(f"\n{printable(story.prompt + story.output)}\n")
    print(f"status {story.status.name.lower()}")
    if story.receipt is not None:
        print(f"receipt {story.receipt}")
    if story.is_tolerant:
        from node.tolerant import MARK

        print(MARK)
