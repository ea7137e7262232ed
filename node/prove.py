"""labora receipts prove: everything that somebody without a node needs to believe one receipt, in one JSON file.

Owns what goes into the file: a block with its votes, the chain of validator sets that leads to it, the state's proof of
the receipt. docs/verify_receipt.py checks it, and so does contracts/ReceiptProof.sol; neither knows this program.
"""

from typing import Any

from node.client import Client, from_hex, to_hex
from node.exits import RUNTIME, Fatal
from node.receipts import Account, Progress, accounts
from node.recount import RECEIPT_NAMES, Facts
from primitives import merkle
from primitives.address import LEDGER
from primitives.rlp import as_bytes, decode_list
from vm.system.layout import WORD, slot_of, u64

PROOF_VERSION = "labora-receipt-proof-1"
SIDECAR_SET, SIDECAR_NEXT_SET = 4, 5


def prove(
    client: Client, account: Account, trusted_set: bytes | None, progress: Progress | None = None
) -> dict[str, Any]:
    """The proof of one receipt in the state after the head. trusted_set: hash of a validator set from which the reader
    goes on; None: from genesis. Raises Fatal."""
    block = client.call("labora_certificate", "latest")
    facts = Facts(client, block["number"])
    params, epoch = facts.params, facts.params.epoch(account.block)
    kept = facts.receipt_id(account.task) == account.receipt["receipt"]
    first = slot_of(LEDGER, "epoch_receipts", u64(epoch))
    slots = [slot_of(LEDGER, "receipt", account.task)] if kept else [first, (first + 1) % WORD]
    proof = client.call("eth_getProof", to_hex(LEDGER), [f"0x{slot:064x}" for slot in slots], hex(block["number"]))
    folded = None
    if not kept:
        last = params.first_height(epoch + 1) - 1
        ids = [each.receipt["receipt"] for each in accounts(client, params.first_height(epoch), last)]
        tree = merkle.levels([merkle.digest(identity) for identity in ids])
        index = ids.index(account.receipt["receipt"])
        siblings = [to_hex(node) for node in merkle.path(tree, index)]
        folded = {"epoch": epoch, "index": index, "count": len(ids), "siblings": siblings}
    return {
        "version": PROOF_VERSION,
        "chainId": params.chain_id,
        "genesis": client.call("labora_parameters")["genesis"],
        "fields": [_plain(account.receipt[name]) for name in RECEIPT_NAMES],
        "trail": _trail(client, params.epoch_blocks, block, trusted_set, progress),
        "block": block,
        "accountProof": proof["accountProof"],
        "storageProof": [{"slot": each["key"], "proof": each["proof"]} for each in proof["storageProof"]],
        "folded": folded,
    }


def _trail(
    client: Client, epoch_blocks: int, block: dict[str, Any], trusted: bytes | None, progress: Progress | None
) -> list[dict[str, Any]]:
    """Blocks that lead from what is trusted to the set that decided `block`: block 0, then the last of each epoch; with
    a trusted set, from the first epoch that it decided on."""
    last_epoch = max(0, block["number"] - 1) // epoch_blocks
    if trusted is not None and _set_of(block) == trusted:
        return []
    found: list[dict[str, Any]] = []
    for epoch in range(last_epoch - 1, -1, -1):
        found.insert(0, client.call("labora_certificate", hex((epoch + 1) * epoch_blocks)))
        if progress is not None:
            progress(last_epoch - epoch, last_epoch)
        if trusted is not None and _set_of(found[0]) == trusted:
            return found
    if trusted is not None:
        raise Fatal(RUNTIME, f"no epoch up to {last_epoch} was decided by the set {to_hex(trusted)}")
    return [client.call("labora_certificate", "0x0"), *found]


def _set_of(block: dict[str, Any]) -> bytes:
    return as_bytes(decode_list(from_hex(block["sidecar"]))[SIDECAR_SET])


def _plain(value: Any) -> Any:
    """A canonical field as JSON: numbers as decimal strings, bytes and addresses in hex."""
    if isinstance(value, bytes):
        return to_hex(value)
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else str(value)
