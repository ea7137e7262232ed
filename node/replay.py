"""What the write-ahead log means: rebuild the agreement core from it, and say what is left to be done.

Sans-IO. The core is given the inputs from the last StartHeight on with its outputs held back; then it says itself
what is outstanding: checks, builds, timers, and own messages whose signature did not come back.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from consensus.bft.core import Core
from consensus.bft.inputs import Input, InvalidInput, StartHeight, decode_input
from consensus.bft.outputs import Output
from node.wal import LostLog, Record
from primitives.block import Block, MalformedBlock, decode_block


class RecordKind(IntEnum):
    """What a record of the log holds."""

    INPUT = 1
    """An input of the core, as consensus.bft.inputs encodes it."""
    BODY = 2
    """Wire body of a block that this node built; its BlockBuilt follows."""


@dataclass
class Recovered:
    """Where the log leaves the core. height 0: nothing to go on with; begin at head + 1."""

    height: int = 0
    outputs: list[Output] = field(default_factory=list)
    """To be carried out now, in order."""
    blocks: dict[bytes, Block] = field(default_factory=dict)
    """Own blocks of this height by hash."""


def recover(core: Core, records: list[Record], head: int) -> Recovered:
    """Feed the core what it knew at head + 1, if the log knows that height.

    Raises LostLog for a record that is not readable (its checksum was right, so another program wrote it), or for a
    log of a height above head + 1 (the chain's store is older than the log).
    """
    inputs = [(index, _input(record)) for index, record in enumerate(records) if record.kind == RecordKind.INPUT]
    starts = [(index, event) for index, event in inputs if isinstance(event, StartHeight)]
    if not starts:
        return Recovered()
    begin, start = starts[-1]
    if start.height > head + 1:
        raise LostLog(f"the log is at height {start.height}, but the chain's last block is {head}")
    if start.height <= head:
        return Recovered()
    for index, event in inputs:
        if index >= begin:
            core.receive(event)
    blocks = [_block(record) for record in records[begin:] if record.kind == RecordKind.BODY]
    return Recovered(start.height, core.resume(), {block.hash: block for block in blocks})


def _input(record: Record) -> Input:
    try:
        return decode_input(record.payload)
    except InvalidInput as error:
        raise LostLog(f"record {record.sequence}: {error}") from error


def _block(record: Record) -> Block:
    try:
        return decode_block(record.payload)
    except MalformedBlock as error:
        raise LostLog(f"record {record.sequence}: {error}") from error
