"""Gas of the system accounts: fixed amounts a method or an item, calibrated to CPU time and not to EVM storage prices.

The scale is that of the EVM here, about 3 gas a microsecond (bench/ measures it again). An amount is the most that the
thing may cost, whatever the state: charged before it begins, never refunded. The Market's own items stand in the lower
half; their sum bounds what one post can cause.
"""

CALL = 600
"""Dispatch of any method: selector, arguments, result."""
CALLDATA_BYTE = 1
"""On top of CALL: decoding, a byte of calldata."""
VIEW_WORD = 60
"""A view: a word of storage that it may read."""

REGISTER = 60_000
"""Two signature recoveries, one pairing, keys and lists."""
BOND = 12_000
UNBOND = 12_000
WITHDRAW = 12_000
SET_PAYOUT = 3_000
ACTIVE_MEMBER = 120
"""On top of those that change the list of active operators: a member of it."""

REGISTER_MODEL = 25_000
SERVE = 8_000
SERVER = 120
"""On top of SERVE: an operator that serves the model."""

MIX = 600
"""Step 0 of the prologue."""
TURN = 15_000
TURN_OPERATOR = 2_000
"""Epoch turn: a fixed part, and a part for each active operator and each member of the set before."""
TURN_STEPS = 4
"""Epoch turn: steps (one member in one height of the two schedules that give the audit delay) for one gas."""
