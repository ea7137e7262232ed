"""Blocks, transactions, receipts and logs as JSON-RPC objects (execution-apis schemas, geth's field set)."""

from typing import Any

from chain.ledger import FoundLog, logs_of_block
from primitives.address import ZERO_ADDRESS
from primitives.block import Block
from primitives.hashing import EMPTY_LIST_HASH, EMPTY_SHA256, EMPTY_TRIE_ROOT, ZERO_HASH
from primitives.header import Header
from primitives.receipt import Receipt
from primitives.transaction import (
    BLOB,
    DYNAMIC_FEE,
    LEGACY,
    SET_CODE,
    AccessList,
    SystemTransaction,
    Transaction,
)
from rpc.codec import address, data, quantity


def header_json(header: Header) -> dict[str, Any]:
    """The header fields of a block object, also what newHeads sends."""
    return {
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "sha3Uncles": data(EMPTY_LIST_HASH),
        "miner": address(header.coinbase),
        "stateRoot": data(header.state_root),
        "transactionsRoot": data(header.transactions_root),
        "receiptsRoot": data(header.receipts_root),
        "logsBloom": data(header.logs_bloom),
        "difficulty": "0x0",
        "number": quantity(header.number),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "extraData": data(header.extra_data),
        "mixHash": data(header.mix_hash),
        "nonce": "0x0000000000000000",
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": data(EMPTY_TRIE_ROOT),
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": data(ZERO_HASH),
        "requestsHash": data(EMPTY_SHA256),
    }


def block_json(block: Block, full: bool) -> dict[str, Any]:
    """A block object with transaction objects or their hashes."""
    if full:
        transactions: list[Any] = [transaction_json(tx, block, i) for i, tx in enumerate(block.transactions)]
    else:
        transactions = [data(tx.hash) for tx in block.transactions]
    return {
        **header_json(block.header),
        "totalDifficulty": "0x0",
        "size": quantity(len(block.stored)),
        "uncles": [],
        "transactions": transactions,
        "withdrawals": [],
    }


def transaction_json(
    transaction: Transaction | SystemTransaction, block: Block | None = None, index: int | None = None
) -> dict[str, Any]:
    """A transaction object; block fields are null while it is pending."""
    placed: dict[str, Any] = {"blockHash": None, "blockNumber": None, "transactionIndex": None}
    if block is not None and index is not None:
        placed = {
            "blockHash": data(block.hash),
            "blockNumber": quantity(block.number),
            "transactionIndex": quantity(index),
        }
    if isinstance(transaction, SystemTransaction):
        assert block is not None
        return {**placed, **_system_json(transaction, block.number)}
    common = {
        **placed,
        "hash": data(transaction.hash),
        "from": address(transaction.sender),
        "to": address(transaction.to) if transaction.to else None,
        "nonce": quantity(transaction.nonce),
        "gas": quantity(transaction.gas),
        "value": quantity(transaction.value),
        "input": data(transaction.data),
        "type": quantity(transaction.type_id),
        "v": quantity(transaction.v),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
    }
    if transaction.chain_id is not None:
        common["chainId"] = quantity(transaction.chain_id)
    if transaction.type_id == LEGACY:
        return {**common, "gasPrice": quantity(transaction.gas_price)}
    common["yParity"] = quantity(transaction.y_parity)
    common["accessList"] = access_list_json(transaction.access_list)
    if transaction.type_id not in (DYNAMIC_FEE, BLOB, SET_CODE):
        return {**common, "gasPrice": quantity(transaction.gas_price)}
    price = transaction.max_fee_per_gas
    if block is not None:
        price = _effective_price(transaction, block.header.base_fee_per_gas)
    common["gasPrice"] = quantity(price)
    common["maxFeePerGas"] = quantity(transaction.max_fee_per_gas)
    common["maxPriorityFeePerGas"] = quantity(transaction.max_priority_fee_per_gas)
    if transaction.type_id == SET_CODE:
        common["authorizationList"] = [
            {
                "chainId": quantity(authorization.chain_id),
                "address": address(authorization.address),
                "nonce": quantity(authorization.nonce),
                "yParity": quantity(authorization.y_parity),
                "r": quantity(authorization.r),
                "s": quantity(authorization.s),
            }
            for authorization in transaction.authorization_list
        ]
    return common


def access_list_json(access_list: AccessList) -> list[dict[str, Any]]:
    """An EIP-2930 access list."""
    return [
        {"address": address(account), "storageKeys": [data(slot.to_bytes(32, "big")) for slot in slots]}
        for account, slots in access_list
    ]


def receipts_json(block: Block, receipts: tuple[Receipt, ...]) -> list[dict[str, Any]]:
    """Every receipt of a block, in order."""
    logs: list[list[dict[str, Any]]] = [[] for _ in receipts]
    for found in logs_of_block(block, receipts):
        logs[found.transaction_index].append(log_json(found))
    return [
        _receipt_json(block, index, transaction, receipt, logs[index])
        for index, (transaction, receipt) in enumerate(zip(block.transactions, receipts, strict=True))
    ]


def log_json(found: FoundLog) -> dict[str, Any]:
    """A log object."""
    return {
        "address": address(found.log.address),
        "topics": [data(topic) for topic in found.log.topics],
        "data": data(found.log.data),
        "blockNumber": quantity(found.block_number),
        "blockHash": data(found.block_hash),
        "blockTimestamp": quantity(found.timestamp),
        "transactionHash": data(found.transaction_hash),
        "transactionIndex": quantity(found.transaction_index),
        "logIndex": quantity(found.log_index),
        "removed": False,
    }


def _receipt_json(
    block: Block,
    index: int,
    transaction: Transaction | SystemTransaction,
    receipt: Receipt,
    logs: list[dict[str, Any]],
) -> dict[str, Any]:
    price = 0
    if isinstance(transaction, Transaction):
        price = _effective_price(transaction, block.header.base_fee_per_gas)
    created = receipt.contract_address
    return {
        "transactionHash": data(transaction.hash),
        "transactionIndex": quantity(index),
        "blockHash": data(block.hash),
        "blockNumber": quantity(block.number),
        "from": address(transaction.sender),
        "to": address(transaction.to) if transaction.to else None,
        "cumulativeGasUsed": quantity(receipt.cumulative_gas_used),
        "gasUsed": quantity(receipt.gas_used),
        "effectiveGasPrice": quantity(price),
        "contractAddress": None if created is None else address(created),
        "logs": logs,
        "logsBloom": data(receipt.logs_bloom),
        "type": quantity(receipt.type_id),
        "status": quantity(receipt.status),
    }


def _effective_price(transaction: Transaction, base_fee: int) -> int:
    return base_fee + transaction.effective_tip(base_fee)


def _system_json(transaction: SystemTransaction, height: int) -> dict[str, Any]:
    """The prologue: unsigned and free, so signature and price read zero and the nonce is the height."""
    return {
        "hash": data(transaction.hash),
        "from": address(transaction.sender),
        "to": address(transaction.to or ZERO_ADDRESS),
        "nonce": quantity(height),
        "gas": quantity(transaction.gas),
        "gasPrice": "0x0",
        "value": "0x0",
        "input": data(transaction.data),
        "type": quantity(transaction.type_id),
        "v": "0x0",
        "r": "0x0",
        "s": "0x0",
        "yParity": "0x0",
        "sourceHash": data(transaction.source_hash),
    }
