"""Why a command ends, as a number: the exit codes that docs/operators.md promises."""

OK = 0
RUNTIME = 1
USAGE = 2
WRONG_CHAIN = 65
"""The data folder belongs to another chain, or to a devnet of another shape (EX_DATAERR)."""
PORT_IN_USE = 69
"""Somebody else listens where the node should (EX_UNAVAILABLE)."""
HALTED = 70
"""A block with a quorum behind it is invalid here: a bug somewhere; the node stopped with a dump (EX_SOFTWARE)."""
DISK = 74
"""Disk full, unreadable or damaged (EX_IOERR)."""
LOCKED = 75
"""Another process uses this data folder (EX_TEMPFAIL)."""
SIGNER = 77
"""The signer will not sign: its state is missing, or used elsewhere (EX_NOPERM)."""
CONFIGURATION = 78
INTERRUPTED = 130


class Fatal(Exception):
    """Ends the process with one clear line and this exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
