// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

/// The opening proves nothing: it is malformed, does not lead to what was committed, or holds values that no execution has.
error InvalidOpening();

/// Reads an opening (docs/openings.md, Commitments): records of the program, tiles of operations, pieces of tensors and
/// chunks of tokens, each checked against the root that it was committed under. Owns the bytes and the trees, and
/// knows no arithmetic.
library OpeningReader {
    uint256 internal constant TILE = 256;
    uint256 private constant CHUNK = 262_144;
    uint256 private constant PIECE = 2_048;
    uint256 private constant TENSOR_BYTES_MAX = 1 << 48;

    /// Where the opening is read, what it is checked against, and what it has shown so far.
    struct Tape {
        uint256 cursor;
        uint256 end;
        bytes32 program;
        bytes32 operations;
        uint256 listed; // operations of the list but the last, which its root is over
        uint256 known;
        uint256[] numbers; // operations whose root was shown
        bytes32[] roots;
        uint256 kept;
        uint256[] runs; // runs of tiles that were shown, and where they stand
        uint256[] places;
    }

    /// Consecutive little-endian integers in memory.
    struct Values {
        uint256 place;
        uint256 count;
        uint256 width;
        bool unsigned;
    }

    function begin(bytes calldata opening, bytes32 program, bytes32 operations, uint256 listed, uint256 slices)
        internal
        pure
        returns (Tape memory tape)
    {
        assembly {
            mstore(tape, opening.offset)
            mstore(add(tape, 32), add(opening.offset, opening.length))
        }
        tape.program = program;
        tape.operations = operations;
        tape.listed = listed;
        tape.numbers = new uint256[](slices);
        tape.roots = new bytes32[](slices);
        tape.runs = new uint256[](slices);
        tape.places = new uint256[](slices);
    }

    /// Nothing may follow.
    function finish(Tape memory tape) internal pure {
        if (tape.cursor != tape.end) revert InvalidOpening();
    }

    /// The integer number `i` of the slice.
    function load(Values memory values, uint256 i) internal pure returns (int256 value) {
        if (i >= values.count) revert InvalidOpening();
        uint256 width = values.width;
        value = read(values.place + i * width, width);
        if (values.unsigned) value &= int256((1 << (8 * width)) - 1);
    }

    /// A signed little-endian integer in memory: for loops that know where they are.
    function read(uint256 place, uint256 width) internal pure returns (int256 value) {
        assembly {
            let x := shr(192, mload(place))
            x := or(shr(8, and(x, 0xff00ff00ff00ff00)), shl(8, and(x, 0x00ff00ff00ff00ff)))
            x := or(shr(16, and(x, 0xffff0000ffff0000)), shl(16, and(x, 0x0000ffff0000ffff)))
            value := signextend(sub(width, 1), or(shr(32, x), shl(32, x)))
        }
    }

    /// What follows `head` in a record of the program: where it begins in the calldata, and its length.
    function record(Tape memory tape, bytes memory head) internal pure returns (uint256 place, uint256 length) {
        uint256 size = number(take(tape, 2), 2);
        place = take(tape, size);
        uint256 steps = number(take(tape, 1), 1);
        uint256 lefts = number(take(tape, 4), 4);
        if (size > 512 || steps > 24 || size < head.length) revert InvalidOpening();
        bytes32 node = leaf(place, size);
        uint256 path = take(tape, 32 * steps);
        for (uint256 i; i < steps; ++i) {
            bytes32 sibling = word(path + 32 * i);
            node = (lefts >> i) & 1 == 1 ? pair(sibling, node) : pair(node, sibling);
        }
        if (node != tape.program || hash(place, head.length) != keccak256(head)) revert InvalidOpening();
        return (place + head.length, size - head.length);
    }

    /// Elements of an operation of `length` results of `width` bytes.
    function elements(Tape memory tape, uint256 op, uint256 length, uint256 width, uint256 first, uint256 count)
        internal
        pure
        returns (Values memory)
    {
        if (first + count > length || op >= tape.listed) revert InvalidOpening();
        bytes32 root = _rootOf(tape, op);
        uint256 tile = first / TILE;
        uint256 end = _up(first + count, TILE);
        uint256 run = (op << 160) | (tile << 80) | end;
        uint256 place;
        for (uint256 i; i < tape.kept; ++i) {
            if (tape.runs[i] == run) place = tape.places[i];
        }
        if (place == 0) {
            uint256 last = end * TILE < length ? end * TILE : length;
            uint256 size = (last - tile * TILE) * width;
            place = take(tape, size);
            bytes32[] memory found = _leaves(place, size, TILE * width);
            if (_climb(tape, found, tile, _up(length, TILE)) != root) revert InvalidOpening();
            tape.runs[tape.kept] = run;
            tape.places[tape.kept++] = place;
        }
        return Values(_copy(place + (first - tile * TILE) * width, count * width), count, width, false);
    }

    /// Elements of a tensor of the model.
    function tensor(Tape memory tape, string calldata name, uint256 first, uint256 count)
        internal
        pure
        returns (Values memory values)
    {
        (uint256 place, uint256 length) = record(tape, abi.encodePacked("tensor|", name, "|"));
        if (length < 32) revert InvalidOpening();
        uint256 size;
        (values.width, values.unsigned, size) = _extents(place, length - 32);
        bytes memory head = abi.encodePacked("\x00labora/tensor|", name, "|", _bytes(place, length - 32));
        values.count = count;
        values.place = _memory(count * values.width);
        uint256 from = first * values.width;
        uint256 to = from + count * values.width;
        if (to > size) revert InvalidOpening();
        bytes32 root = word(place + length - 32);
        uint256 written = values.place;
        for (uint256 index = from / CHUNK; index < _up(to, CHUNK); ++index) {
            uint256 base = index * CHUNK;
            uint256 low = (from > base ? from : base) - base;
            uint256 high = (to < base + CHUNK ? to : base + CHUNK) - base;
            uint256 data = _piece(tape, head, root, size, index, low / PIECE, _up(high, PIECE));
            uint256 part = high - low;
            assembly {
                calldatacopy(written, add(data, mod(low, 2048)), part)
            }
            written += part;
        }
    }

    /// Token `index` of `total` under a root over chunks of 256.
    function token(Tape memory tape, bytes32 root, uint256 total, uint256 index)
        internal
        pure
        returns (Values memory values)
    {
        if (index >= total) revert InvalidOpening();
        uint256 chunk = index / TILE;
        uint256 last = (chunk + 1) * TILE < total ? (chunk + 1) * TILE : total;
        uint256 size = 4 * (last - chunk * TILE);
        uint256 place = take(tape, size);
        bytes32[] memory found = _leaves(place, size, size);
        if (_climb(tape, found, chunk, _up(total, TILE)) != root) revert InvalidOpening();
        values = Values(_memory(32), 1, 4, false);
        uint256 x = number(place + 4 * (index % TILE), 4);
        assembly {
            x := or(shr(8, and(x, 0xff00ff00)), shl(8, and(x, 0x00ff00ff)))
            mstore(mload(values), shl(224, or(shr(16, x), shl(16, and(x, 0xffff)))))
        }
    }

    // Bytes of the calldata

    /// The next `length` bytes of the opening.
    function take(Tape memory tape, uint256 length) internal pure returns (uint256 place) {
        place = tape.cursor;
        tape.cursor = place + length;
        if (tape.cursor > tape.end) revert InvalidOpening();
    }

    /// A big-endian number of `length` bytes.
    function number(uint256 place, uint256 length) internal pure returns (uint256) {
        return uint256(word(place)) >> (256 - 8 * length);
    }

    function word(uint256 place) internal pure returns (bytes32 found) {
        assembly {
            found := calldataload(place)
        }
    }

    // Hashes

    function hash(uint256 place, uint256 length) internal pure returns (bytes32 digest) {
        assembly {
            let free := mload(64)
            calldatacopy(free, place, length)
            digest := keccak256(free, length)
        }
    }

    function leaf(uint256 place, uint256 length) internal pure returns (bytes32 digest) {
        assembly {
            let free := mload(64)
            mstore8(free, 0)
            calldatacopy(add(free, 1), place, length)
            digest := keccak256(free, add(length, 1))
        }
    }

    function pair(bytes32 left, bytes32 right) internal pure returns (bytes32 digest) {
        assembly {
            let free := mload(64)
            mstore8(free, 1)
            mstore(add(free, 1), left)
            mstore(add(free, 33), right)
            digest := keccak256(free, 65)
        }
    }

    /// The root of an operation: shown on first use, with its path in the list.
    function _rootOf(Tape memory tape, uint256 op) private pure returns (bytes32 root) {
        for (uint256 i; i < tape.known; ++i) {
            if (tape.numbers[i] == op) return tape.roots[i];
        }
        uint256 place = take(tape, 32);
        root = word(place);
        if (_climb(tape, _leaves(place, 32, 32), op, tape.listed) != tape.operations) revert InvalidOpening();
        tape.numbers[tape.known] = op;
        tape.roots[tape.known++] = root;
    }

    function _leaves(uint256 place, uint256 size, uint256 each) private pure returns (bytes32[] memory found) {
        found = new bytes32[](_up(size, each));
        for (uint256 i; i < found.length; ++i) {
            uint256 rest = size - i * each;
            found[i] = leaf(place + i * each, rest < each ? rest : each);
        }
    }

    /// The root above a run of nodes from `first` on, of `count` that there are: of each level the left neighbour is
    /// taken if the run begins at a right child, then the right one if it ends at a left child that has one.
    function _climb(Tape memory tape, bytes32[] memory nodes, uint256 first, uint256 count)
        private
        pure
        returns (bytes32)
    {
        uint256 length = nodes.length;
        if (length == 0) revert InvalidOpening();
        while (count > 1) {
            uint256 i;
            uint256 made;
            if (first & 1 == 1) {
                nodes[0] = pair(word(take(tape, 32)), nodes[0]);
                i = made = 1;
            }
            for (; i + 1 < length; i += 2) {
                nodes[made++] = pair(nodes[i], nodes[i + 1]);
            }
            if (i < length) {
                bool alone = first + i + 1 >= count;
                nodes[made++] = alone ? nodes[i] : pair(nodes[i], word(take(tape, 32)));
            }
            (length, first, count) = (made, first >> 1, (count + 1) >> 1);
        }
        return nodes[0];
    }

    // Tensors

    /// Where pieces `first` .. `end` - 1 of a chunk stand, their path and the chunk's being checked.
    function _piece(
        Tape memory tape,
        bytes memory head,
        bytes32 root,
        uint256 size,
        uint256 index,
        uint256 first,
        uint256 end
    ) private pure returns (uint256 place) {
        uint256 length = size - index * CHUNK < CHUNK ? size - index * CHUNK : CHUNK;
        uint256 last = end * PIECE < length ? end * PIECE : length;
        place = take(tape, last - first * PIECE);
        bytes32[] memory nodes = _leaves(place, last - first * PIECE, PIECE);
        bytes32 pieces = _climb(tape, nodes, first, _up(length, PIECE));
        bytes32[] memory chunk = new bytes32[](1);
        chunk[0] = keccak256(abi.encodePacked(head, uint64(index), pieces));
        if (_climb(tape, chunk, index, _up(size, CHUNK)) != root) revert InvalidOpening();
    }

    /// Of `dtype|extents|`: the bytes of an element, whether it has no sign, the bytes of the whole.
    function _extents(uint256 place, uint256 length) private pure returns (uint256 width, bool unsigned, uint256 size) {
        bytes memory text = _bytes(place, length);
        uint256 i;
        while (i < length && text[i] != "|") ++i;
        bytes32 dtype = hash(place, i);
        if (dtype == keccak256("int8")) width = 1;
        else if (dtype == keccak256("int16")) width = 2;
        else if (dtype == keccak256("int32")) width = 4;
        else if (dtype == keccak256("uint16")) (width, unsigned) = (2, true);
        else revert InvalidOpening();
        size = width;
        uint256 extent;
        uint256 digits;
        for (++i; i < length; ++i) {
            bytes1 c = text[i];
            bool closes = c == "," || (c == "|" && i + 1 == length);
            if (closes) {
                if (digits == 0) revert InvalidOpening();
                size *= extent;
                if (size > TENSOR_BYTES_MAX) revert InvalidOpening();
                (extent, digits) = (0, 0);
            } else {
                if (c < "0" || c > "9" || ++digits > 9) revert InvalidOpening();
                extent = 10 * extent + (uint8(c) - 48);
            }
        }
        if (digits != 0 || text[length - 1] != "|") revert InvalidOpening();
    }

    // Memory

    function _copy(uint256 place, uint256 length) private pure returns (uint256 to) {
        to = _memory(length);
        assembly {
            calldatacopy(to, place, length)
        }
    }

    function _bytes(uint256 place, uint256 length) private pure returns (bytes memory text) {
        text = new bytes(length);
        assembly {
            calldatacopy(add(text, 32), place, length)
        }
    }

    /// Room for so many bytes, and for a whole word that is read at the last of them.
    function _memory(uint256 length) private pure returns (uint256 place) {
        assembly {
            place := mload(64)
            mstore(64, and(add(add(place, length), 63), not(31)))
        }
    }

    function _up(uint256 length, uint256 size) private pure returns (uint256) {
        return (length + size - 1) / size;
    }
}
