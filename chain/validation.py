"""Whether a block is valid: a pure function of the block, its parent, the parent's state and the validator sets.

No clock, mempool, round or peer is asked (docs/consensus.md, CheckBlock): a block is valid on every node or on none.
Whether the proposer's turn it was, and whether the time is near ours, is the agreement core's question (it gates one's
own prevote, never validity). From cheap to dear, so that a bad block costs little.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from consensus.bft.certificate import InvalidCertificate
from consensus.bft.certificate import verify as verify_certificate
from primitives import bls
from primitives.block import EMPTY_EVIDENCE_ROOT, EMPTY_LAST_COMMIT, Block
from primitives.hashing import keccak
from primitives.params import ChainParams
from primitives.transaction import InvalidTransaction, SystemTransaction, Transaction, system_transaction
from primitives.validators import ValidatorSet
from primitives.vote import InvalidMessage, SignContext, decode_last_commit
from vm.executor import BlockEnv, Execution, Timer, execute_block
from vm.mpt import ordered_trie_root
from vm.state import StateReader
from vm.system import views
from vm.system.prologue import prologue_data
from vm.validity import check_static, next_base_fee


class InvalidBlock(ValueError):
    """A block that breaks a rule: which field, what the rule makes it, what was found."""

    def __init__(self, field: str, expected: object, found: object) -> None:
        super().__init__(f"{field}: expected {_shown(expected)}, found {_shown(found)}")
        self.field = field
        self.expected = expected
        self.found = found


@dataclass(frozen=True)
class Context:
    """What a block at parent.number + 1 is judged by."""

    params: ChainParams
    genesis_hash: bytes
    parent: Block
    state: Mapping[bytes, bytes]
    """Trie nodes and code by keccak; holds the whole state of the parent."""
    parent_set: ValidatorSet
    """Set of the parent's height, whose precommits decided it (of block 0: set(0))."""
    sets: tuple[ValidatorSet, ValidatorSet]
    """set(e) and set(e + 1) of the block's epoch e, as the parent state holds them."""
    turn: bytes
    """Whose turn round 0 of this height is: the only one whose reveal the randomness takes in."""
    prologue_timer: Timer = nullcontext
    """Around each execution of a prologue."""

    @property
    def number(self) -> int:
        """Height of the block that is judged."""
        return self.parent.number + 1

    @property
    def reader(self) -> StateReader:
        """The parent state."""
        return StateReader(self.state, self.parent.header.state_root)


def validate_block(context: Context, block: Block) -> Execution:
    """Its execution, when every rule holds. Raises InvalidBlock naming the field.

    CorruptState and MissingNode pass through: they are this node's fault, not the block's.
    """
    check_header(context, block)
    check_sidecar(context, block)
    check_author(context, block)
    check_last_commit(context, block)
    check_beacon(context, block)
    check_transactions(context, block)
    return check_execution(context, block)


def is_whole(block: Block) -> bool:
    """Whether the contents are those that the block's hash commits to (transactions, sidecar, last commit).

    Of a body that came for a hash this must be asked first: a forged body says nothing about the block of that hash.
    """
    return (
        block.header.transactions_root == ordered_trie_root([transaction.raw for transaction in block.transactions])
        and block.header.extra_data == block.sidecar.hash
        and block.sidecar.last_commit_hash == keccak(block.last_commit)
    )


def check_header(context: Context, block: Block) -> None:
    """The fields that follow from the parent alone (the constant ones are refused when a header is decoded)."""
    header, parent, params = block.header, context.parent.header, context.params
    _require("number", context.number, header.number)
    _require("parent_hash", parent.hash, header.parent_hash)
    _require("gas_limit", params.block_gas_limit, header.gas_limit)
    base_fee = next_base_fee(parent.gas_used, parent.base_fee_per_gas, params)
    _require("base_fee_per_gas", base_fee, header.base_fee_per_gas)
    if len(block.wire_body) > params.block_bytes_max:
        raise InvalidBlock("size", f"at most {params.block_bytes_max} bytes", len(block.wire_body))


def check_sidecar(context: Context, block: Block) -> None:
    """What consensus adds, and the two header fields made of it: extra_data and timestamp."""
    sidecar, params = block.sidecar, context.params
    _require("extra_data", sidecar.hash, block.header.extra_data)
    _require("epoch", params.epoch(context.number), sidecar.epoch)
    _require("validator_set_hash", context.sets[0].hash, sidecar.validator_set_hash)
    _require("next_validator_set_hash", context.sets[1].hash, sidecar.next_validator_set_hash)
    _require("params_hash", params.hash, sidecar.params_hash)
    # Evidence is an empty list until it is adjudicated on chain; decoding a body refuses any other.
    _require("evidence_root", EMPTY_EVIDENCE_ROOT, sidecar.evidence_root)
    if sidecar.time_ms <= context.parent.sidecar.time_ms:
        raise InvalidBlock("time_ms", f"more than the parent's {context.parent.sidecar.time_ms}", sidecar.time_ms)
    _require("timestamp", sidecar.time_ms // 1000, block.header.timestamp)


def check_author(context: Context, block: Block) -> None:
    """The author belongs to the set, and coinbase is where its fees go in the parent state."""
    proposer = block.sidecar.proposer
    if context.sets[0].by_operator(proposer) is None:
        raise InvalidBlock("proposer", f"a member of set({block.sidecar.epoch})", proposer)
    _require("coinbase", views.payout(context.reader, proposer), block.header.coinbase)


def check_last_commit(context: Context, block: Block) -> None:
    """Exactly precommits for the parent, of more than two thirds of the parent's set; block 1 carries rlp([])."""
    _require("last_commit_hash", keccak(block.last_commit), block.sidecar.last_commit_hash)
    if context.parent.number == 0:
        _require("last_commit", EMPTY_LAST_COMMIT, block.last_commit)
        return
    try:
        certificate = decode_last_commit(block.last_commit)
    except InvalidMessage as error:
        raise InvalidBlock("last_commit", "a commit certificate", str(error)) from error
    if certificate is None:
        raise InvalidBlock("last_commit", f"a commit certificate of block {context.parent.number}", "none")
    _require("last_commit.height", context.parent.number, certificate.height)
    _require("last_commit.block_hash", context.parent.hash, certificate.block_hash)
    try:
        verify_certificate(SignContext(context.params.chain_id, context.genesis_hash), context.parent_set, certificate)
    except InvalidCertificate as error:
        raise InvalidBlock("last_commit", "precommits of over two thirds of the parent's set", str(error)) from error


def check_beacon(context: Context, block: Block) -> None:
    """The proof is the author's signature over (previous mix, height), and mix_hash follows from it."""
    author = context.sets[0].by_operator(block.sidecar.proposer)
    assert author is not None  # check_author
    previous, proof = context.parent.header.mix_hash, block.sidecar.beacon_proof
    _require("mix_hash", mix_of(context, block.sidecar.proposer, proof), block.header.mix_hash)
    message = bls.beacon_message(context.genesis_hash, previous, context.number)
    try:
        genuine = bls.verify(author.beacon_key, message, proof)
    except bls.InvalidBLS as error:
        raise InvalidBlock("beacon_proof", "a BLS signature of the proposer", str(error)) from error
    if not genuine:
        raise InvalidBlock("beacon_proof", "the proposer's signature over the previous mix and the height", proof)


def mix_of(context: Context, author: bytes, proof: bytes) -> bytes:
    """The block's randomness: keccak(previous mix | reveal of whose turn round 0 was); keccak(previous mix) when
    somebody else made the block.

    Else a coalition with several turns in a row, the rounds of a height among them, could try the reveal of each of its
    members at each height: with j turns (j + 1)! randomnesses, where this leaves it 2^j.
    """
    return bls.next_mix(context.parent.header.mix_hash, proof if author == context.turn else b"")


def check_transactions(context: Context, block: Block) -> None:
    """Exactly one system transaction, the derived one, at index 0; the others well formed and signed."""
    root = ordered_trie_root([transaction.raw for transaction in block.transactions])
    _require("transactions_root", root, block.header.transactions_root)
    if not block.transactions:
        raise InvalidBlock("transactions", "the system prologue at index 0", "no transaction")
    derived = prologue_of(context, block.sidecar.beacon_proof)
    _require("transactions[0]", derived.raw, block.transactions[0].raw)
    for index, transaction in enumerate(block.transactions[1:], start=1):
        if not isinstance(transaction, Transaction):
            raise InvalidBlock(f"transactions[{index}]", "no second system transaction", transaction.hash)
        try:
            check_static(transaction, context.params)
        except InvalidTransaction as error:
            raise InvalidBlock(f"transactions[{index}]", "a valid transaction", str(error)) from error


def check_execution(context: Context, block: Block) -> Execution:
    """Run it on the parent state and compare all that the header commits to."""
    header = block.header
    env = block_env(context, header.timestamp, header.coinbase, header.mix_hash, header.base_fee_per_gas)
    try:
        execution = execute_block(
            context.state, context.parent.header.state_root, env, block.transactions, context.prologue_timer
        )
    except InvalidTransaction as error:
        raise InvalidBlock("transactions", "transactions that may stand here", str(error)) from error
    _require("gas_used", execution.gas_used, header.gas_used)
    _require("receipts_root", execution.receipts_root, header.receipts_root)
    _require("logs_bloom", execution.logs_bloom, header.logs_bloom)
    _require("state_root", execution.state_root, header.state_root)
    return execution


def prologue_of(context: Context, beacon_proof: bytes) -> SystemTransaction:
    """The system transaction that every node derives for this height."""
    params = context.params
    data = prologue_data(context.parent.hash, beacon_proof)
    return system_transaction(params.chain_id, context.number, params.block_gas_limit, data)


def block_env(context: Context, timestamp: int, coinbase: bytes, mix_hash: bytes, base_fee: int) -> BlockEnv:
    """What execution sees of the block."""
    return BlockEnv(
        params=context.params,
        genesis_hash=context.genesis_hash,
        number=context.number,
        timestamp=timestamp,
        coinbase=coinbase,
        mix_hash=mix_hash,
        base_fee_per_gas=base_fee,
        parent_hash=context.parent.hash,
    )


def _require(field: str, expected: object, found: object) -> None:
    if expected != found:
        raise InvalidBlock(field, expected, found)


def _shown(value: object) -> str:
    """Long bytes cut: an error is read by people and goes through logs."""
    if not isinstance(value, bytes):
        return str(value)
    return f"0x{value.hex()}" if len(value) <= 40 else f"0x{value[:40].hex()}... ({len(value)} bytes)"
