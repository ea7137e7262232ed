"""Every method of the interface, by name."""

from rpc import eth_chain, eth_filters, eth_state, labora, models, node_info, proofs
from rpc.dispatch import Registry


def registry() -> Registry:
    """The methods that this node serves; those that execute code or walk many blocks are heavy."""
    made = Registry()
    for name, call in {
        "eth_chainId": eth_chain.chain_id,
        "eth_blockNumber": eth_chain.block_number,
        "eth_syncing": eth_chain.syncing,
        "eth_accounts": eth_chain.accounts,
        "eth_getUncleCountByBlockNumber": eth_chain.uncle_count,
        "eth_getUncleCountByBlockHash": eth_chain.uncle_count,
        "eth_getUncleByBlockNumberAndIndex": eth_chain.uncle,
        "eth_getUncleByBlockHashAndIndex": eth_chain.uncle,
        "eth_blobBaseFee": eth_chain.blob_base_fee,
        "eth_sendRawTransaction": eth_chain.send_raw_transaction,
        "eth_newFilter": eth_filters.new_filter,
        "eth_newBlockFilter": eth_filters.new_block_filter,
        "eth_newPendingTransactionFilter": eth_filters.new_pending_filter,
        "eth_uninstallFilter": eth_filters.uninstall_filter,
        "eth_subscribe": eth_filters.subscribe,
        "eth_unsubscribe": eth_filters.unsubscribe,
        "net_version": node_info.net_version,
        "net_listening": node_info.net_listening,
        "net_peerCount": node_info.net_peer_count,
        "web3_clientVersion": node_info.client_version,
        "web3_sha3": node_info.sha3,
        "txpool_status": node_info.txpool_status,
        "rpc_modules": node_info.rpc_modules,
        "labora_health": labora.health,
        "labora_parameters": proofs.parameters,
        "labora_softAnswers": labora.soft_answers,
    }.items():
        made.add(name, call)
    for name, call in {
        "eth_getBlockByNumber": eth_chain.get_block_by_number,
        "eth_getBlockByHash": eth_chain.get_block_by_hash,
        "eth_getBlockTransactionCountByNumber": eth_chain.transaction_count_by_number,
        "eth_getBlockTransactionCountByHash": eth_chain.transaction_count_by_hash,
        "eth_getTransactionByHash": eth_chain.transaction_by_hash,
        "eth_getTransactionByBlockNumberAndIndex": eth_chain.transaction_by_block_number_and_index,
        "eth_getTransactionByBlockHashAndIndex": eth_chain.transaction_by_block_hash_and_index,
        "eth_getRawTransactionByHash": eth_chain.raw_transaction_by_hash,
        "eth_getTransactionReceipt": eth_chain.transaction_receipt,
        "eth_getBlockReceipts": eth_chain.block_receipts,
        "eth_gasPrice": eth_chain.gas_price,
        "eth_maxPriorityFeePerGas": eth_chain.max_priority_fee,
        "eth_getBalance": eth_state.get_balance,
        "eth_getCode": eth_state.get_code,
        "eth_getTransactionCount": eth_state.get_transaction_count,
        "eth_getStorageAt": eth_state.get_storage_at,
        "txpool_content": node_info.txpool_content,
        "labora_localModels": models.local_models,
        "labora_certificate": proofs.certificate,
        "labora_modelManifest": models.model_manifest,
        "labora_modelTokenizer": models.model_tokenizer,
    }.items():
        made.add(name, call, reads=True)
    for name, call in {
        "eth_getLogs": eth_chain.get_logs,
        "eth_feeHistory": eth_chain.fee_history,
        "eth_getFilterChanges": eth_filters.filter_changes,
        "eth_getFilterLogs": eth_filters.filter_logs,
        "eth_call": eth_state.eth_call,
        "eth_estimateGas": eth_state.eth_estimate_gas,
        "eth_createAccessList": eth_state.create_access_list,
        "eth_getProof": eth_state.get_proof,
        "labora_task": labora.task,
        "labora_validators": labora.validators,
        "labora_models": labora.models,
    }.items():
        made.add(name, call, heavy=True)
    for name, call in {
        "admin_fetchModel": models.fetch_model,
        "admin_removeModel": models.remove_model,
    }.items():
        made.add(name, call, admin=True)
    return made
