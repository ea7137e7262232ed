// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// @title Proof of a Labora compute receipt, for contracts on any chain.
/// @notice A block is believed when more than two thirds of a known validator set precommitted to it, a receipt when that
///  block's state holds its id, or the root of its epoch under which it lies. docs/receipts.md (Proof of one receipt)
///  has the rules; `labora receipts prove` makes the inputs. Nothing here reads storage.
library ReceiptProof {
    /// A proof that proves nothing; `why` names the first thing that does not hold.
    error Wrong(string why);

    /// A block as labora_certificate gives it: header, sidecar and set in RLP, the votes of its commit certificate.
    struct CertifiedBlock {
        bytes header;
        bytes sidecar;
        bytes validatorSet;
        uint32 round;
        bytes bitmap;
        bytes[] signatures;
    }

    /// What a believed block says.
    struct Believed {
        uint256 number;
        bytes32 stateRoot;
        bytes32 nextSet;
    }

    /// An item of an RLP list: where its content lies in the bytes, and where the whole of it does.
    struct Item {
        uint256 start;
        uint256 length;
        uint256 whole;
        bool list;
    }

    address internal constant LEDGER = 0x0000000000000000000000000000000000000a04;
    bytes internal constant DOMAIN = "labora/consensus/1";
    uint256 internal constant PRECOMMIT = 3;
    uint256 internal constant MEMBERS_MAX = 128;
    uint256 internal constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// The set that decides a chain's first blocks, by its genesis block alone.
    function setOfGenesis(bytes memory header, bytes memory sidecar, bytes32 genesis) internal pure returns (bytes32) {
        _require(keccak256(header) == genesis, "another genesis");
        _require(_word(header, _items(header)[12]) == keccak256(sidecar), "not genesis's sidecar");
        return _word(sidecar, _items(sidecar)[4]);
    }

    /// Believe a block that more than two thirds of `set` (the hash of its RLP) precommitted to, or revert.
    function believe(CertifiedBlock memory b, bytes32 set, uint256 chainId, bytes32 genesis)
        internal
        pure
        returns (Believed memory found)
    {
        Item[] memory header = _items(b.header);
        Item[] memory sidecar = _items(b.sidecar);
        _require(header.length == 21 && sidecar.length == 11, "not a header and a sidecar");
        _require(_word(b.header, header[12]) == keccak256(b.sidecar), "the sidecar is not the header's");
        _require(keccak256(b.validatorSet) == set, "another validator set");
        _require(_word(b.sidecar, sidecar[4]) == set, "another validator set decided this block");
        found.number = _number(b.header, header[8]);
        found.stateRoot = _word(b.header, header[3]);
        found.nextSet = _word(b.sidecar, sidecar[5]);
        _countVotes(b, _signBytes(chainId, genesis, found.number, b.round, keccak256(b.header)));
    }

    /// The id that the state keeps of a task's receipt.
    function receiptOf(bytes32 task, bytes32 stateRoot, bytes[] memory accountProof, bytes[] memory storageProof)
        internal
        pure
        returns (bytes32)
    {
        bytes32 slot = keccak256(abi.encodePacked(LEDGER, "|receipt|", task));
        return bytes32(_stored(_storageRoot(stateRoot, accountProof), slot, storageProof));
    }

    /// The root over an epoch's receipts, and how many there are.
    function receiptsOf(
        uint64 epoch,
        bytes32 stateRoot,
        bytes[] memory accountProof,
        bytes[] memory countProof,
        bytes[] memory rootProof
    ) internal pure returns (bytes32 root, uint256 count) {
        bytes32 slot = keccak256(abi.encodePacked(LEDGER, "|epoch_receipts|", epoch));
        bytes32 storageRoot = _storageRoot(stateRoot, accountProof);
        count = _stored(storageRoot, slot, countProof);
        unchecked {
            root = bytes32(_stored(storageRoot, bytes32(uint256(slot) + 1), rootProof));
        }
    }

    /// The root that a receipt at `index` of `count` and its path lead to.
    function rootByPath(bytes32 receipt, uint256 index, uint256 count, bytes32[] memory siblings)
        internal
        pure
        returns (bytes32 node)
    {
        _require(index < count, "no such place under the root");
        node = keccak256(abi.encodePacked(bytes1(0x00), receipt));
        uint256 used;
        while (count > 1) {
            if ((index ^ 1) < count) {
                _require(used < siblings.length, "the path is too short");
                bytes32 sibling = siblings[used++];
                node = index & 1 == 1
                    ? keccak256(abi.encodePacked(bytes1(0x01), sibling, node))
                    : keccak256(abi.encodePacked(bytes1(0x01), node, sibling));
            }
            index >>= 1;
            count = (count + 1) >> 1;
        }
        _require(used == siblings.length, "the path is too long");
    }

    // ------------------------------------------------------------------------------------------------ votes

    function _countVotes(CertifiedBlock memory b, bytes32 digest) private pure {
        Item[] memory members = _items(b.validatorSet);
        uint256 size = members.length;
        _require(size > 0 && size <= MEMBERS_MAX && b.bitmap.length == (size + 7) / 8, "a bitmap of another set");
        uint256 total;
        uint256 voted;
        uint256 used;
        for (uint256 i = 0; i < size; ++i) {
            Item[] memory member = _itemsAt(b.validatorSet, members[i].whole);
            uint256 power = _number(b.validatorSet, member[2]);
            total += power;
            if (uint8(b.bitmap[i / 8]) >> (i % 8) & 1 == 0) continue;
            _require(used < b.signatures.length, "not a signature a vote");
            address voter = address(uint160(_number(b.validatorSet, member[1])));
            _require(_signer(digest, b.signatures[used++]) == voter, "a vote is not its member's");
            voted += power;
        }
        _require(used == b.signatures.length, "not a vote a signature");
        _require(size % 8 == 0 || uint8(b.bitmap[size / 8]) >> (size % 8) == 0, "a bit that names nobody");
        _require(3 * voted > 2 * total, "the votes are not more than two thirds");
    }

    /// keccak(rlp[domain, chain id, genesis hash, 3, height, round, block hash]).
    function _signBytes(uint256 chainId, bytes32 genesis, uint256 height, uint256 round, bytes32 blockHash)
        private
        pure
        returns (bytes32)
    {
        bytes memory payload = abi.encodePacked(
            bytes1(uint8(0x80 + DOMAIN.length)), DOMAIN, _encoded(chainId), bytes1(0xa0), genesis, _encoded(PRECOMMIT),
            _encoded(height), _encoded(round), bytes1(0xa0), blockHash
        );
        assert(payload.length > 55 && payload.length < 256);
        return keccak256(abi.encodePacked(bytes1(0xf8), uint8(payload.length), payload));
    }

    function _encoded(uint256 value) private pure returns (bytes memory) {
        if (value == 0) return hex"80";
        if (value < 0x80) return abi.encodePacked(uint8(value));
        uint256 size;
        for (uint256 left = value; left > 0; left >>= 8) ++size;
        bytes memory out = new bytes(size + 1);
        out[0] = bytes1(uint8(0x80 + size));
        for (uint256 i = size; i > 0; --i) {
            out[i] = bytes1(uint8(value));
            value >>= 8;
        }
        return out;
    }

    function _signer(bytes32 digest, bytes memory signature) private pure returns (address signer) {
        _require(signature.length == 65 && uint8(signature[64]) < 2, "a signature's form");
        bytes32 r = _load(signature, 0);
        bytes32 s = _load(signature, 32);
        _require(uint256(s) <= HALF_ORDER, "a high s");
        signer = ecrecover(digest, 27 + uint8(signature[64]), r, s);
        _require(signer != address(0), "a signature that no key made");
    }

    // ------------------------------------------------------------------------------------------------ state

    function _storageRoot(bytes32 stateRoot, bytes[] memory accountProof) private pure returns (bytes32) {
        bytes memory account = _value(stateRoot, keccak256(abi.encodePacked(LEDGER)), accountProof);
        return _word(account, _items(account)[2]);
    }

    function _stored(bytes32 storageRoot, bytes32 slot, bytes[] memory proof) private pure returns (uint256) {
        bytes memory value = _value(storageRoot, keccak256(abi.encodePacked(slot)), proof);
        Item memory item = _item(value, 0, value.length);
        _require(!item.list && item.length <= 32, "not a word");
        return _number(value, item);
    }

    /// The value under a hashed key in a Merkle-Patricia trie, by the nodes on the way to it.
    function _value(bytes32 root, bytes32 key, bytes[] memory proof) private pure returns (bytes memory) {
        bytes32 expected = root;
        bytes memory node;
        uint256 used;
        uint256 spot;
        bool inside;
        while (true) {
            if (!inside) {
                _require(used < proof.length, "the proof ends before a leaf");
                node = proof[used++];
                _require(keccak256(node) == expected, "a node is not the one that its parent names");
            }
            Item[] memory items = _items(node);
            Item memory next;
            if (items.length == 17) {
                _require(spot < 64, "the key ends in a branch");
                next = items[_nibble(key, spot++)];
            } else {
                _require(items.length == 2, "not a node");
                bytes memory path = _slice(node, items[0].start, items[0].length);
                _require(path.length > 0, "not a path");
                uint256 flag = uint8(path[0]) >> 4;
                for (uint256 i = flag & 1 == 1 ? 1 : 2; i < 2 * path.length; ++i) {
                    uint8 pair = uint8(path[i / 2]);
                    _require(spot < 64, "a path longer than the key");
                    _require((i & 1 == 1 ? pair & 15 : pair >> 4) == _nibble(key, spot++), "the state holds no such thing");
                }
                if (flag & 2 == 2) {
                    _require(spot == 64 && used == proof.length, "the proof goes on after its leaf");
                    return _slice(node, items[1].start, items[1].length);
                }
                next = items[1];
            }
            inside = next.list;
            if (inside) node = _slice(node, next.whole, next.start + next.length - next.whole);
            else expected = _word(node, next);
        }
        revert Wrong("unreachable");
    }

    function _nibble(bytes32 key, uint256 spot) private pure returns (uint256) {
        uint8 pair = uint8(key[spot / 2]);
        return spot & 1 == 1 ? pair & 15 : pair >> 4;
    }

    // ------------------------------------------------------------------------------------------------ RLP

    /// The items of the list that all of `data` is.
    function _items(bytes memory data) private pure returns (Item[] memory) {
        Item memory whole = _item(data, 0, data.length);
        _require(whole.start + whole.length == data.length, "bytes after a list");
        return _itemsAt(data, 0);
    }

    /// The items of the list that begins at a place in `data`.
    function _itemsAt(bytes memory data, uint256 spot) private pure returns (Item[] memory items) {
        Item memory list = _item(data, spot, data.length);
        _require(list.list, "not a list");
        uint256 end = list.start + list.length;
        uint256 count;
        for (uint256 place = list.start; place < end; ++count) {
            Item memory item = _item(data, place, end);
            place = item.start + item.length;
        }
        items = new Item[](count);
        uint256 next = list.start;
        for (uint256 i = 0; i < count; ++i) {
            items[i] = _item(data, next, end);
            next = items[i].start + items[i].length;
        }
    }

    /// The item at a place, which must end by `end`.
    function _item(bytes memory data, uint256 spot, uint256 end) private pure returns (Item memory item) {
        _require(spot < end, "RLP ends early");
        uint256 first = uint8(data[spot]);
        item.whole = spot;
        item.list = first >= 0xc0;
        if (first < 0x80) {
            item.start = spot;
            item.length = 1;
        } else {
            uint256 short = first - (item.list ? 0xc0 : 0x80);
            item.start = spot + 1;
            item.length = short;
            if (short > 55) {
                uint256 size = short - 55;
                _require(size <= 4 && spot + 1 + size <= end, "RLP ends early");
                item.length = 0;
                for (uint256 i = 0; i < size; ++i) item.length = item.length << 8 | uint8(data[spot + 1 + i]);
                item.start = spot + 1 + size;
            }
        }
        _require(item.start + item.length <= end, "RLP ends early");
    }

    function _word(bytes memory data, Item memory item) private pure returns (bytes32) {
        _require(!item.list && item.length == 32, "not 32 bytes");
        return _load(data, item.start);
    }

    function _number(bytes memory data, Item memory item) private pure returns (uint256) {
        _require(!item.list && item.length <= 32, "not a number");
        return item.length == 0 ? 0 : uint256(_load(data, item.start)) >> (8 * (32 - item.length));
    }

    /// 32 bytes from a place on; the caller keeps what lies beyond the end out.
    function _load(bytes memory data, uint256 spot) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), spot))
        }
    }

    function _slice(bytes memory data, uint256 start, uint256 length) private pure returns (bytes memory out) {
        out = new bytes(length);
        for (uint256 i = 0; i < length; ++i) out[i] = data[start + i];
    }

    function _require(bool holds, string memory why) private pure {
        if (!holds) revert Wrong(why);
    }
}
