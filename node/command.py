"""How a user types this program's commands here, for messages that say what to do next.

Knows how the process was started and the search path, nothing of the commands.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "labora"


def as_typed(*arguments: str) -> str:
    """A command line that works in the shell that started this process: `labora ...` where that is on the PATH, else
    the script or `python -m node` that it was started as, relative to the working folder when it lies in it."""
    return " ".join((_program(), *(shlex.quote(argument) for argument in arguments)))


def _program() -> str:
    if shutil.which(NAME) is not None:
        return NAME
    started = Path(sys.argv[0])
    if started.name == NAME:
        return shlex.quote(_near(started))
    return f"{shlex.quote(_near(Path(sys.executable)))} -m node"


def _near(path: Path) -> str:
    """Links are not followed: a virtual environment's python is its own only under its own name."""
    whole, here = os.path.abspath(path), os.getcwd()
    return os.path.relpath(whole, here) if whole.startswith(here.rstrip(os.sep) + os.sep) else whole
