"""Checks a proof that `labora receipts prove` wrote, without Labora: python verify_receipt.py proof.json GENESIS_HASH

Needs the packages rlp, eth-hash[pycryptodome] and coincurve. Trusted are the genesis hash and, if given as third word,
a validator set's hash; everything else is proven: sets by the votes of the set before, the block by the votes of its
set, the state by the block, the receipt by the state.
"""

import json
import sys

import rlp
from coincurve import PublicKey
from eth_hash.auto import keccak

LEDGER = bytes.fromhex("0000000000000000000000000000000000000a04")
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
FIELDS = (
    ("task", "bytes32"), ("executor", "address"), ("class", "uint8"), ("lane", "uint8"), ("kind", "uint8"),
    ("model", "bytes32"), ("promptHash", "bytes32"), ("outputHash", "bytes32"), ("seed", "bytes32"),
    ("promptTokens", "uint32"), ("outputTokens", "uint32"), ("prefillMacs", "uint256"), ("decodeMacs", "uint256"),
    ("prefillBytes", "uint256"), ("decodeBytes", "uint256"), ("verifiers", "address[]"), ("verification", "uint8"),
    ("outcome", "uint8"), ("root", "bytes32"), ("pricePerCwu", "uint256"), ("fee", "uint256"), ("payer", "address"),
    ("queueMs", "uint32"), ("firstTokenMs", "uint32"), ("totalMs", "uint32"), ("device", "bytes"),
)  # fmt: skip


class Wrong(Exception):
    """The file proves nothing; the text says why."""


def require(holds, why):
    if not holds:
        raise Wrong(why)


def raw(text):
    return bytes.fromhex(text.removeprefix("0x"))


def number(data):
    return int.from_bytes(data, "big")


def signer(digest, signature):
    require(len(signature) == 65 and signature[64] < 2, "a signature's form")
    require(number(signature[32:64]) <= HALF_ORDER, "a high s")
    return keccak(PublicKey.from_signature_and_message(signature, digest, hasher=None).format(False)[1:])[12:]


def check_block(block, set_hash, chain_id, genesis):
    """(header fields, sidecar fields) of a block that more than two thirds of the set precommitted to."""
    header_bytes, sidecar_bytes, members_bytes = (raw(block[name]) for name in ("header", "sidecar", "validatorSet"))
    header, sidecar, members = (rlp.decode(data) for data in (header_bytes, sidecar_bytes, members_bytes))
    require(keccak(sidecar_bytes) == header[12], "the sidecar is not the header's")
    require(sidecar[4] == set_hash == keccak(members_bytes), "another validator set decided this block")
    certificate, bitmap = block["certificate"], number(raw(block["certificate"]["bitmap"])[::-1])
    vote = [b"labora/consensus/1", chain_id, genesis, 3, number(header[8]), certificate["round"], keccak(header_bytes)]
    digest = keccak(rlp.encode(vote))
    voters = [member for place, member in enumerate(members) if bitmap >> place & 1]
    require(bitmap < 1 << len(members), "the bitmap names nobody's bit")
    require(len(voters) == len(certificate["signatures"]), "not a signature a vote")
    for member, signature in zip(voters, certificate["signatures"], strict=True):
        require(signer(digest, raw(signature)) == member[1], "a vote is not its member's")
    power = sum(number(member[2]) for member in voters)
    require(3 * power > 2 * sum(number(member[2]) for member in members), "the votes are not more than two thirds")
    return header, sidecar


def trie_value(root, key, proof):
    """The value under a key in a Merkle-Patricia trie, by the nodes on the way to it."""
    nibbles = [half for byte in keccak(key) for half in (byte >> 4, byte & 15)]
    reference, nodes = root, [raw(node) for node in proof]
    while nodes or isinstance(reference, list):
        if isinstance(reference, list):
            node = reference
        else:
            encoded = nodes.pop(0)
            require(keccak(encoded) == reference, "a node of the trie is not the one that its parent names")
            node = rlp.decode(encoded)
        if len(node) == 17:
            reference = node[nibbles.pop(0)]
            continue
        path = [half for byte in node[0] for half in (byte >> 4, byte & 15)]
        part = path[1:] if path[0] & 1 else path[2:]
        require(nibbles[: len(part)] == part, "the state holds no such thing")
        del nibbles[: len(part)]
        reference = node[1]
        if path[0] & 2:
            require(not nodes and not nibbles, "the proof goes on after its leaf")
            return reference
    raise Wrong("the proof ends before a leaf")


def word(storage, slot, entry):
    require(number(raw(entry["slot"])) == slot, "the proof is of another slot")
    return rlp.decode(trie_value(storage, slot.to_bytes(32, "big"), entry["proof"])).rjust(32, b"\0")


def slot_of(name, key):
    return number(keccak(b"|".join((LEDGER, name, key))))


def identity_of(fields):
    """keccak of abi.encode of a receipt's fields: all static but one list of addresses and one byte string."""
    require(len(fields) == len(FIELDS), "not as many fields as a receipt has")
    head, tail = b"", b""
    for (_, kind), value in zip(FIELDS, fields, strict=True):
        if kind == "address[]" or kind == "bytes":
            head += (32 * len(FIELDS) + len(tail)).to_bytes(32, "big")
            body = b"".join(raw(each).rjust(32, b"\0") for each in value) if kind == "address[]" else raw(value)
            tail += len(value if kind == "address[]" else body).to_bytes(32, "big") + body + bytes(-len(body) % 32)
        else:
            head += int(value).to_bytes(32, "big") if kind.startswith("uint") else raw(value).rjust(32, b"\0")
    return keccak(head + tail)


def check(proof, genesis, trusted_set=None):
    """The receipt's fields by name. Raises Wrong (or what a malformed file makes of itself)."""
    trail, set_hash = list(proof["trail"]), trusted_set
    if set_hash is None:
        header, sidecar = (raw(trail[0][name]) for name in ("header", "sidecar"))
        require(keccak(header) == genesis and keccak(sidecar) == rlp.decode(header)[12], "another genesis")
        set_hash = rlp.decode(sidecar)[4]
        trail.pop(0)
    for block in trail:
        set_hash = check_block(block, set_hash, proof["chainId"], genesis)[1][5]
    header, _ = check_block(proof["block"], set_hash, proof["chainId"], genesis)
    storage = rlp.decode(trie_value(header[3], LEDGER, proof["accountProof"]))[2]
    fields, entries, folded = proof["fields"], proof["storageProof"], proof["folded"]
    identity = identity_of(fields)
    if folded is None:
        require(word(storage, slot_of(b"receipt", raw(fields[0])), entries[0]) == identity, "the state has another")
    else:
        first = slot_of(b"epoch_receipts", folded["epoch"].to_bytes(8, "big"))
        index, count, siblings = folded["index"], folded["count"], [raw(each) for each in folded["siblings"]]
        require(number(word(storage, first, entries[0])) == count and 0 <= index < count, "another count of receipts")
        node = keccak(b"\0" + identity)
        while count > 1:
            if index ^ 1 < count:
                pair = siblings.pop(0), node
                node = keccak(b"\1" + b"".join(pair if index & 1 else pair[::-1]))
            index, count = index // 2, (count + 1) // 2
        require(not siblings and node == word(storage, first + 1, entries[1]), "not under its epoch's root")
    return {"receipt": "0x" + identity.hex(), **dict(zip((name for name, _ in FIELDS), fields, strict=True))}


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        found = check(json.load(file), raw(sys.argv[2]), raw(sys.argv[3]) if len(sys.argv) > 3 else None)
    print(json.dumps(found, indent=1))
