"""eth_ methods that read the ledger's history: blocks, transactions, receipts, logs, fees."""

import time
from functools import partial
from typing import Any

from chain.ledger import FEE_HISTORY_MAX, QueryTooLarge
from primitives.block import Block
from primitives.receipt import Receipt
from primitives.transaction import Transaction
from rpc.codec import data, quantity, read_bool, read_data, read_hash, read_quantity
from rpc.context import Context
from rpc.errors import LIMIT_EXCEEDED, SERVER_ERROR, RpcError, invalid_params
from rpc.format import block_json, log_json, receipts_json, transaction_json
from rpc.logs import Criteria, read_criteria

LOGS_SECONDS_MAX = 5
PERCENTILES_MAX = 100
TIP_BLOCKS = 20
TIP_FALLBACK_WEI = 10**9


def chain_id(context: Context) -> str:
    """EIP-155 chain id."""
    return quantity(context.ledger.params.chain_id)


def block_number(context: Context) -> str:
    """Height of the head."""
    return quantity(context.ledger.head.number)


def syncing(context: Context) -> Any:
    """False, or the heights while the node catches up."""
    status = context.backend.syncing()
    if status is None:
        return False
    return {
        "startingBlock": quantity(status.starting),
        "currentBlock": quantity(status.current),
        "highestBlock": quantity(status.highest),
    }


def accounts(context: Context) -> list[str]:
    """None: the node signs for nobody."""
    return []


def get_block_by_number(context: Context, number: Any, full: Any = False) -> Any:
    """A block by height or tag; null when there is none."""
    try:
        block = context.block(number)
    except RpcError as error:
        if error.code == SERVER_ERROR:
            return None
        raise
    return block_json(block, read_bool(full, "full"))


def get_block_by_hash(context: Context, block_hash: Any, full: Any = False) -> Any:
    """A block by hash; null when there is none."""
    block = context.ledger.block_by_hash(read_hash(block_hash, "hash"))
    return None if block is None else block_json(block, read_bool(full, "full"))


def transaction_count_by_number(context: Context, number: Any) -> Any:
    """Transactions in a block."""
    return quantity(len(context.block(number).transactions))


def transaction_count_by_hash(context: Context, block_hash: Any) -> Any:
    """Transactions in a block; null when there is none."""
    block = context.ledger.block_by_hash(read_hash(block_hash, "hash"))
    return None if block is None else quantity(len(block.transactions))


def uncle_count(context: Context, block: Any) -> str:
    """There are no uncles on this chain."""
    return "0x0"


def uncle(context: Context, block: Any, index: Any) -> None:
    """There are no uncles on this chain."""


def transaction_by_hash(context: Context, transaction_hash: Any) -> Any:
    """A transaction in a block or in the mempool; null when unknown."""
    wanted = read_hash(transaction_hash, "hash")
    found = context.ledger.find_transaction(wanted)
    if found is not None:
        block, index = found
        return transaction_json(block.transactions[index], block, index)
    pending = context.backend.mempool.get(wanted)
    return None if pending is None else transaction_json(pending)


def transaction_by_block_number_and_index(context: Context, number: Any, index: Any) -> Any:
    """A transaction by its place; null when there is none."""
    return _transaction_at(context.block(number), index)


def transaction_by_block_hash_and_index(context: Context, block_hash: Any, index: Any) -> Any:
    """A transaction by its place; null when there is none."""
    block = context.ledger.block_by_hash(read_hash(block_hash, "hash"))
    return None if block is None else _transaction_at(block, index)


def raw_transaction_by_hash(context: Context, transaction_hash: Any) -> Any:
    """The EIP-2718 envelope; null when unknown."""
    wanted = read_hash(transaction_hash, "hash")
    found = context.ledger.find_transaction(wanted)
    transaction = found[0].transactions[found[1]] if found is not None else context.backend.mempool.get(wanted)
    return None if transaction is None else data(transaction.raw)


def transaction_receipt(context: Context, transaction_hash: Any) -> Any:
    """A receipt; null until the transaction is in a block."""
    found = context.ledger.find_transaction(read_hash(transaction_hash, "hash"))
    if found is None:
        return None
    block, index = found
    return receipts_json(block, _receipts(context, block))[index]


def block_receipts(context: Context, block: Any) -> Any:
    """Every receipt of a block; null when there is no such block."""
    try:
        found = context.block(block)
    except RpcError as error:
        if error.code == SERVER_ERROR:
            return None
        raise
    return receipts_json(found, _receipts(context, found))


def get_logs(context: Context, wanted: Any) -> list[dict[str, Any]]:
    """Logs by block range or hash, addresses and topics."""
    if not isinstance(wanted, dict):
        raise invalid_params("invalid argument 0: a filter object is wanted")
    criteria = read_criteria(wanted)
    if wanted.get("blockHash") is not None:
        if wanted.get("fromBlock") is not None or wanted.get("toBlock") is not None:
            raise invalid_params("cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other")
        block = context.ledger.block_by_hash(read_hash(wanted["blockHash"], "blockHash"))
        if block is None:
            raise RpcError(SERVER_ERROR, "unknown block")
        return logs_between(context, block.number, block.number, criteria)
    head = context.ledger.head.number
    first = context.number(wanted.get("fromBlock") or "latest")
    to_block = wanted.get("toBlock") or "latest"
    ahead = isinstance(to_block, str) and to_block.startswith("0x") and len(to_block) < 66
    last = min(head, read_quantity(to_block, "toBlock", 64)) if ahead else context.number(to_block)
    if first > last:
        raise invalid_params("invalid block range params")
    return logs_between(context, first, last, criteria)


def logs_between(context: Context, first: int, last: int, criteria: Criteria) -> list[dict[str, Any]]:
    """Wanted logs of the blocks first..last. Raises RpcError beyond the ledger's bounds."""
    try:
        late = partial(_is_over, time.monotonic() + LOGS_SECONDS_MAX)
        found = context.ledger.logs(first, last, criteria.addresses, criteria.topics, late)
    except QueryTooLarge as error:
        raise RpcError(LIMIT_EXCEEDED, str(error)) from error
    return [log_json(entry) for entry in found]


def _is_over(end: float) -> bool:
    return time.monotonic() > end


def gas_price(context: Context) -> str:
    """Base fee of the next block plus the suggested tip."""
    return quantity(context.ledger.next_base_fee() + _suggested_tip(context))


def max_priority_fee(context: Context) -> str:
    """Median tip of recent user transactions; 1 gwei when there were none."""
    return quantity(_suggested_tip(context))


def blob_base_fee(context: Context) -> str:
    """This chain carries no blobs; the least fee EIP-4844 knows."""
    return "0x1"


def fee_history(context: Context, count: Any, newest: Any, percentiles: Any = None) -> dict[str, Any]:
    """Base fees, gas used ratios and tips at percentiles of gas used (EIP-1559)."""
    wanted = read_quantity(count, "blockCount", 64) if isinstance(count, str) else count
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise invalid_params("blockCount must be at least 1")
    points = percentiles or []
    if not isinstance(points, list) or len(points) > PERCENTILES_MAX:
        raise invalid_params(f"over the query limit {PERCENTILES_MAX} of reward percentiles")
    for before, point in zip([0, *points], points, strict=False):
        if isinstance(point, bool) or not isinstance(point, int | float) or not 0 <= point <= 100 or point < before:
            raise invalid_params(f"invalid reward percentile: {point!r}")
    last = context.number(newest)
    hundredths = [int(point * 100) for point in points]
    found = context.ledger.fee_history(min(wanted, FEE_HISTORY_MAX), last, hundredths)
    blocks = len(found.gas_used)
    history: dict[str, Any] = {
        "oldestBlock": quantity(found.oldest),
        "baseFeePerGas": [quantity(fee) for fee in found.base_fees],
        "gasUsedRatio": [used / found.gas_limit for used in found.gas_used],
        "baseFeePerBlobGas": ["0x1"] * (blocks + 1),
        "blobGasUsedRatio": [0] * blocks,
    }
    if points:
        history["reward"] = [[quantity(tip) for tip in tips] for tips in found.rewards]
    return history


def send_raw_transaction(context: Context, raw: Any) -> str:
    """Checks, pools and gossips a signed transaction; its hash."""
    return data(context.backend.submit(read_data(raw, "data")).hash)


def _receipts(context: Context, block: Block) -> tuple[Receipt, ...]:
    receipts = context.ledger.receipts(block.number)
    assert receipts is not None
    return receipts


def _transaction_at(block: Block, index: Any) -> Any:
    place = read_quantity(index, "index", 64)
    if place >= len(block.transactions):
        return None
    return transaction_json(block.transactions[place], block, place)


def _suggested_tip(context: Context) -> int:
    tips = []
    head = context.ledger.head.number
    for number in range(max(1, head - TIP_BLOCKS + 1), head + 1):
        block = context.ledger.block(number)
        assert block is not None
        base_fee = block.header.base_fee_per_gas
        tips += [tx.effective_tip(base_fee) for tx in block.transactions if isinstance(tx, Transaction)]
    return sorted(tips)[len(tips) // 2] if tips else TIP_FALLBACK_WEI
