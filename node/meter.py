"""How far a long reading has come, on standard error: a bar on a terminal, a line every tenth elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES_FROM = 1_000
"""Below so many, where there is no terminal, nothing needs to be said."""


@contextmanager
def meter(what: str) -> Iterator[Callable[[int, int], None]]:
    """(done, of so many), to be called as the work goes on."""
    if sys.stderr.isatty():
        from rich import progress as bars
        from rich.console import Console

        columns = (
            bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        )  # fmt: skip
        with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            bar = shown.add_task(what, total=None)
            yield lambda done, total: shown.update(bar, completed=done, total=total)
        return
    began, said = time.monotonic(), 0

    def say(done: int, total: int) -> None:
        nonlocal said
        tenth = done * 10 // total if total else 0
        if total < LINES_FROM or tenth <= said:
            return
        said = tenth
        rate = done / max(time.monotonic() - began, 0.001)
        left = f", {(total - done) / rate:.0f} s left" if done < total else ""
        print(f"{done:,} of {total:,} {what}, {rate:,.0f} a second{left}", file=sys.stderr, flush=True)

    yield say
