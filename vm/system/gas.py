"""Gas of the system accounts: fixed amounts a method or an item, calibrated to CPU time and not to EVM storage prices.

The scale is that of the EVM here, about 3 gas a microsecond: READ and WRITE are words of storage that were not touched
in the block before, trie work included; the rest is counted in them. An amount is the most that the thing may cost,
whatever the state: charged before it begins, never refunded. The Market's own items stand in the lower half; their sum
bounds what one post can cause.
"""

READ = 200
"""67 microseconds: a word whose nodes come out of a LevelDB of 200,000 words takes some 50, one whose nodes the last
blocks used 8 (bench/storage_words.py)."""
WRITE = 300
"""100 microseconds: a word into the journal and, at the block's end, into the trie and the database."""
LOG = 150
"""50 microseconds: encoding a log and its part of the bloom."""

CALL = 600
"""Dispatch of any method: selector, arguments, result."""
CALLDATA_BYTE = 1
"""On top of CALL: decoding, a byte of calldata."""
VIEW_WORD = READ
"""A view: a word of storage that it may read."""

PROOFS = 15_000
"""Two secp256k1 recoveries and one BLS12-381 pairing check (4 ms)."""
LIST_MEMBER = READ + WRITE
"""On top of what changes a sorted list: a member that may have to move."""
REGISTER = PROOFS + 16 * READ + 14 * WRITE + 3 * LOG
BOND = 12 * READ + 8 * WRITE + 3 * LOG
UNBOND = 12 * READ + 8 * WRITE + 2 * LOG
WITHDRAW = 11 * READ + 8 * WRITE + LOG
UNBONDING = READ + WRITE
"""On top of WITHDRAW: an unbonding that may have ended."""
DELEGATE = 20 * READ + 16 * WRITE + LOG
UNDELEGATE = 26 * READ + 22 * WRITE + LOG
CLAIM = 12 * READ + 6 * WRITE + LOG
COMMISSION = 8 * READ + 2 * WRITE + LOG
SET_PAYOUT = 8 * READ + WRITE + LOG

REGISTER_MODEL = 12 * READ + 50 * WRITE + LOG
SERVE = 8 * READ + 7 * WRITE + LOG

DECLARE = 12 * READ + 4 * WRITE + LOG

MIX = 2 * WRITE
"""Step 0 of the prologue."""
PRICE = 3 * READ + 2 * WRITE
"""Step 0 too: the base price moves."""
RECEIPT_LEVELS = 20
"""Of the tree over an epoch's receipts: more than a million of them."""
TURN = 15_000 + RECEIPT_LEVELS * READ
TURN_OPERATOR = 2_000
"""Epoch turn: a fixed part, and one for each active operator and each member of the set before. The prologue's gas is
a budget that nobody pays: an operator takes about 4 ms of a block once an epoch, and the amount is what lets a turn of
128 keep its place in the prologue of the smallest block."""
TURN_STEPS = 4
"""Epoch turn: steps (one member in one height of the two schedules that give the audit delay) for one gas."""

# The tolerant lane

OFFER = 16 * READ + 6 * WRITE + LOG
"""Made or withdrawn."""
TOLERANT_LOOK = 8 * READ + 6 * WRITE
"""An entry of its queue that turns out stale."""
TOLERANT_END = (36 + RECEIPT_LEVELS) * READ + 30 * WRITE + 2 * LOG
"""The most that the prologue does about one task: its receipt, its payment, two records, nothing of it left."""
ASK = 30 * READ + 20 * WRITE + LOG + TOLERANT_END + 2 * TOLERANT_LOOK
"""With what a task causes in later prologues, but that it is forgotten."""
ASK_BYTE = 4
"""On top of ASK: a byte of the prompt (hashed once, logged once)."""
TOLERANT_ANSWER = 18 * READ + 10 * WRITE + LOG
ANSWER_BYTE = 12
"""On top of TOLERANT_ANSWER: a byte of the answer (decoded, hashed, logged)."""
ACCEPT = 14 * READ + 8 * WRITE + LOG
REFUSE = 24 * READ + 20 * WRITE + LOG
