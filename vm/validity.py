"""Whether a transaction may enter a block: the checks that need no execution, in geth's words.

Owns what py-evm leaves to the node (chain id of typed transactions, EIP-1559, 2681, 3607, 3860, 7623, 7702) and the
base fee. Knows neither blocks nor the state: it is given the sender's account.
"""

from primitives.address import checksum
from primitives.hashing import keccak
from primitives.params import ChainParams
from primitives.transaction import BLOB, SET_CODE, UINT64_MAX, UINT256_MAX, InvalidTransaction, Transaction

INITCODE_BYTES_MAX = 49_152
"""EIP-3860."""
DELEGATION_PREFIX = b"\xef\x01\x00"
"""EIP-7702: code of an account that runs another's."""
BASE_FEE_ELASTICITY = 2
BASE_FEE_DENOMINATOR = 8


class BlockGasExhausted(InvalidTransaction):
    """Nothing is wrong with the transaction: this block has not enough gas left for it."""


def check_static(tx: Transaction, params: ChainParams) -> None:
    """What can be said without the state. Raises InvalidTransaction."""
    if tx.type_id == BLOB:
        raise InvalidTransaction("transaction type not supported: this chain carries no blobs (type 0x03)")
    if tx.chain_id is not None and tx.chain_id != params.chain_id:
        raise InvalidTransaction(f"invalid chain id for signer: have {tx.chain_id} want {params.chain_id}")
    if tx.gas > params.transaction_gas_max:
        most = params.transaction_gas_max
        raise InvalidTransaction(f"exceeds block gas limit: gas {tx.gas}, most of a transaction {most}")
    if tx.nonce == UINT64_MAX:
        raise InvalidTransaction(f"nonce has max value: address {checksum(tx.sender)}, nonce: {tx.nonce}")
    if tx.max_priority_fee_per_gas > tx.max_fee_per_gas:
        raise InvalidTransaction(
            f"max priority fee per gas higher than max fee per gas: address {checksum(tx.sender)}, "
            f"maxPriorityFeePerGas: {tx.max_priority_fee_per_gas}, maxFeePerGas: {tx.max_fee_per_gas}"
        )
    if tx.gas * tx.max_fee_per_gas > UINT256_MAX:
        raise InvalidTransaction(
            f"insufficient funds for gas * price + value: address {checksum(tx.sender)} "
            "required balance exceeds 256 bits"
        )
    if tx.type_id == SET_CODE:
        if not tx.to:
            raise InvalidTransaction("EIP-7702 transaction cannot be used to create contract")
        if not tx.authorization_list:
            raise InvalidTransaction("EIP-7702 transaction with empty auth list")
    if not tx.to and len(tx.data) > INITCODE_BYTES_MAX:
        raise InvalidTransaction(f"max initcode size exceeded: code size {len(tx.data)}, limit {INITCODE_BYTES_MAX}")
    if tx.gas < tx.intrinsic_gas:
        raise InvalidTransaction(f"intrinsic gas too low: have {tx.gas}, want {tx.intrinsic_gas}")
    if tx.gas < tx.floor_gas:
        raise InvalidTransaction(f"insufficient gas for floor data gas cost: have {tx.gas}, want {tx.floor_gas}")


def check_account(tx: Transaction, nonce: int, balance: int, code: bytes, base_fee: int) -> None:
    """The transaction against its sender's account and the block's base fee. Raises InvalidTransaction."""
    if tx.nonce < nonce:
        raise InvalidTransaction(f"nonce too low: next nonce {nonce}, tx nonce {tx.nonce}")
    if tx.nonce > nonce:
        raise InvalidTransaction(f"nonce too high: next nonce {nonce}, tx nonce {tx.nonce}")
    if code and not is_delegation(code):
        raise InvalidTransaction(
            f"sender not an eoa: address {checksum(tx.sender)}, codehash: 0x{keccak(code).hex()}"
        )
    if tx.max_fee_per_gas < base_fee:
        raise InvalidTransaction(
            f"max fee per gas less than block base fee: address {checksum(tx.sender)}, "
            f"maxFeePerGas: {tx.max_fee_per_gas}, baseFee: {base_fee}"
        )
    cost = tx.gas * tx.max_fee_per_gas + tx.value
    if balance < cost:
        raise InvalidTransaction(
            f"insufficient funds for gas * price + value: address {checksum(tx.sender)} have {balance} want {cost}"
        )


def is_delegation(code: bytes) -> bool:
    """Whether the code is an EIP-7702 designator (23 bytes): its account still signs transactions."""
    return len(code) == 23 and code.startswith(DELEGATION_PREFIX)


def next_base_fee(parent_gas_used: int, parent_base_fee: int, params: ChainParams) -> int:
    """Base fee per gas (wei) of the block after one that used so much gas (EIP-1559), never below base_fee_min."""
    target = params.block_gas_limit // BASE_FEE_ELASTICITY
    if parent_gas_used == target:
        fee = parent_base_fee
    elif parent_gas_used > target:
        rise = parent_base_fee * (parent_gas_used - target) // target // BASE_FEE_DENOMINATOR
        fee = parent_base_fee + max(rise, 1)
    else:
        fee = parent_base_fee - parent_base_fee * (target - parent_gas_used) // target // BASE_FEE_DENOMINATOR
    return max(fee, params.base_fee_min)
