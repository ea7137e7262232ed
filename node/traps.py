"""Traps that this validator sets: an answer whose root it hides behind a salt, so that who copies what was let out pays
(docs/useful-work.md; vm.system.market_trap). Owns the choice and the salt, and what the chain still allows; pure.

Both follow from a hash under a secret of this node. Nobody foresees them, and they cannot be lost while the hot key is
there: a node that comes back without its journal does the work again and recognises what it had committed. Who is away
until the time for its root is over cannot be helped: nobody else knows the salt, or could open the commitment.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from node.duties import Result, ResultKey
from primitives.hashing import keccak
from primitives.task import execution_commitment, trap_root
from vm.system.market_trap import TRAP_EVERY

ONE_IN = 32
"""Of the answers that may be traps, so that what is allowed is seldom used up, and its count says nothing."""


@dataclass(frozen=True)
class Traps:
    """The traps of one hot account."""

    secret: bytes

    @classmethod
    def of(cls, hot_key: bytes) -> "Traps":
        """Under a secret that follows from the account's key, and says nothing of it."""
        return cls(keccak(b"labora/traps/1" + hot_key))

    def chooses(self, task: bytes, trace_key: bytes) -> bool:
        """Whether the answer to an attempt at a task is to be one."""
        return int.from_bytes(keccak(self.secret + b"choice" + task + trace_key)[:8], "big") % ONE_IN == 0

    def hidden(self, made: Result) -> Result:
        """An answer, its root behind the salt."""
        return replace(made, salt=keccak(self.secret + b"salt" + made.task + made.trace_key))

    def recognised(self, found: Result, operator: bytes, commitment: bytes) -> Result:
        """What work that was done again gave, as it was committed."""
        trap = self.hidden(found)
        star = trap_root(trap.salt, trap.root)
        return trap if execution_commitment(found.task, operator, star) == commitment else found


def allowed(answers: int, unopened: Iterable[tuple[bytes, bytes]], results: Mapping[ResultKey, Result]) -> int:
    """Traps that may be set now so that each can be opened. answers: those left on the chain to set traps against;
    unopened: (task, trace key) of this operator's answers whose roots are not revealed. One that this node holds no
    result of may be a trap."""
    unknown = sum((*key, True) not in results for key in unopened)
    return answers // TRAP_EVERY - unknown - sum(bool(result.salt) for result in results.values())
