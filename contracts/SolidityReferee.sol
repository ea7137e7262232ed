// SPDX-License-Identifier: MIT
pragma solidity ^0.8.20;

import {InvalidOpening, OpeningReader} from "./OpeningReader.sol";

/// The second referee: recomputes one element of one operation after the native one, from the same opening, for the
/// rules of products, tables and sampling. Written from docs/openings.md and docs/inference.md (Sampling). Of the
/// address it is told which slices the element reads (docs/decisions/016); commitments, tokens, places in tables and
/// the arithmetic are its own. Pure: its answer follows from the calldata alone.
contract SolidityReferee {
    using OpeningReader for OpeningReader.Tape;
    using OpeningReader for OpeningReader.Values;

    /// The rule is none of this referee's.
    error NotMine();

    /// What is undisputed: roots, the task's seed, words of prompt and answer, operations of the list but the last.
    struct Statement {
        bytes32 program;
        bytes32 operations;
        bytes32 promptRoot;
        bytes32 outputRoot;
        bytes32 seed;
        uint256 prompt;
        uint256 answer;
        uint256 listed;
    }

    /// What is disputed: element `element` of operation `op`, which has `length` of `width` bytes. product: the name of
    /// the product whose record the opening holds, or empty.
    struct Question {
        bytes32 rule;
        uint256 op;
        uint256 length;
        uint256 width;
        uint256 element;
        string product;
        int256[] constants;
    }

    /// What it reads: of an operation (number, length, width, begin, count), of a tensor (name, begin, count), or token
    /// `begin` of prompt and answer. `begin` of a tensor that is read where a value says is not looked at.
    struct Slice {
        uint256 source;
        uint256 number;
        uint256 length;
        uint256 width;
        string name;
        uint256 begin;
        uint256 count;
    }

    uint256 private constant TENSOR = 1;
    uint256 private constant TOKEN = 2;
    uint256 private constant SHAPE_WIDTH = 2; // places of u32 in the shape's record
    uint256 private constant SHAPE_EXPONENT = 14;
    uint256 private constant SHAPE_NUMBERS = 20;
    int256 private constant WIDE = 1 << 40; // residual, logits
    int256 private constant GATE = 1 << 31;
    int256 private constant IDS = 1 << 20;
    int256 private constant MASS = 1 << 50; // of a vocabulary, each 2^30 at most

    /// Whether the element follows from what it reads. Reverts with NotMine or InvalidOpening.
    function judge(Statement calldata s, Question calldata q, Slice[] calldata slices, bytes calldata opening)
        external
        pure
        returns (bool holds)
    {
        if (!_mine(q.rule)) revert NotMine();
        OpeningReader.Tape memory tape =
            OpeningReader.begin(opening, s.program, s.operations, s.listed, slices.length + 1);
        uint256 numbers = _shape(tape);
        _product(tape, q);
        if (q.element >= q.length) revert InvalidOpening();
        int256 committed = tape.elements(q.op, q.length, q.width, q.element, 1).load(0);
        OpeningReader.Values[] memory values = new OpeningReader.Values[](slices.length);
        for (uint256 i; i < slices.length; ++i) {
            Slice calldata slice = slices[i];
            if (slice.count == 0) continue;
            if (slice.source == TENSOR) {
                uint256 place = q.rule == "dot" ? slice.begin : _place(q, values, i, slice.name, numbers);
                values[i] = tape.tensor(slice.name, place, slice.count);
            } else if (slice.source == TOKEN) {
                values[i] = _token(tape, s, slice.begin, numbers);
            } else {
                values[i] = tape.elements(slice.number, slice.length, slice.width, slice.begin, slice.count);
            }
        }
        tape.finish();
        int256 computed = _compute(s, q, values, numbers);
        int256 limit = int256(1) << (8 * q.width - 1);
        if (computed < -limit || computed >= limit) revert InvalidOpening();
        return computed == committed;
    }

    function _mine(bytes32 rule) private pure returns (bool) {
        return rule == "dot" || rule == "sum" || rule == "exp" || rule == "gate" || rule == "embed" || rule == "most"
            || rule == "rank" || rule == "ranked" || rule == "mass" || rule == "scale" || rule == "target"
            || rule == "hit" || rule == "found" || rule == "sums" || rule == "digit" || rule == "choose"
            || rule == "equal" || rule == "nothing";
    }

    // Records

    /// Where the numbers of the shape's record stand.
    function _shape(OpeningReader.Tape memory tape) private pure returns (uint256 numbers) {
        (uint256 place, uint256 length) = tape.record("shape|");
        uint256 size = 4 * SHAPE_NUMBERS;
        if (length <= size || uint8(bytes1(OpeningReader.word(place + length - size - 1))) != 0x7c) {
            revert InvalidOpening();
        }
        return place + length - size;
    }

    function _extent(uint256 numbers, uint256 index) private pure returns (uint256) {
        return OpeningReader.number(numbers + 4 * index, 4);
    }

    /// The record of the product that the operation belongs to; with one term nothing is multiplied by a second.
    function _product(OpeningReader.Tape memory tape, Question calldata q) private pure {
        if (bytes(q.product).length == 0) return;
        (uint256 place, uint256 length) = tape.record(abi.encodePacked("linear|", q.product, "|"));
        if (length != 4) revert InvalidOpening();
        uint256 terms = OpeningReader.number(place + 3, 1);
        if (terms == 0 || terms > 2 || (q.rule == "nothing" && terms == 2)) revert InvalidOpening();
    }

    // What values say is read

    function _token(OpeningReader.Tape memory tape, Statement calldata s, uint256 position, uint256 numbers)
        private
        pure
        returns (OpeningReader.Values memory values)
    {
        values = position < s.prompt
            ? tape.token(s.promptRoot, s.prompt, position)
            : tape.token(s.outputRoot, s.answer, position - s.prompt);
        int256 token = values.load(0);
        if (token < 0 || uint256(token) >= _extent(numbers, 0)) revert InvalidOpening();
    }

    /// The place in the table, of the last slices, by the values before it.
    function _place(
        Question calldata q,
        OpeningReader.Values[] memory values,
        uint256 slice,
        string calldata name,
        uint256 numbers
    ) private pure returns (uint256) {
        if (q.rule == "embed") {
            uint256 token = uint256(values[0].load(0));
            return slice == 1 ? token * _extent(numbers, SHAPE_WIDTH) + q.element : token;
        }
        if (q.rule == "exp") return _index(_below(values[0].load(0), values[1].load(0)));
        if (q.rule == "mass") return _index(_power(q, values));
        if (q.rule != "gate") revert InvalidOpening();
        int256 step = _isSigmoid(name) ? int256(7) : int256(6);
        int256 place = (values[0].load(0) >> uint256(step)) + 8192;
        return place < 0 ? 0 : place > 16383 ? 16383 : uint256(place);
    }

    function _isSigmoid(string calldata name) private pure returns (bool) {
        return keccak256(bytes(name)) == keccak256("table.sigmoid");
    }

    /// The entry of the table of 2^-power, power in Q16.
    function _index(int256 power) private pure returns (uint256) {
        return uint256(power & 0xffff) >> 4;
    }

    function _below(int256 score, int256 best) private pure returns (int256) {
        _within(score, -int256(uint256(type(uint64).max >> 1)), best);
        return best - score;
    }

    /// How many halvings the last logit of the slice lies below the best, in Q16.
    function _power(Question calldata q, OpeningReader.Values[] memory values) private pure returns (int256) {
        int256 below = values[1].load(0) - values[0].load(values[0].count - 1);
        if (below > 1 << 28) below = 1 << 28;
        return (below * (int256(6196328018) / q.constants[0])) >> 16;
    }

    // Rules

    function _compute(Statement calldata s, Question calldata q, OpeningReader.Values[] memory v, uint256 numbers)
        private
        pure
        returns (int256)
    {
        bytes32 rule = q.rule;
        if (rule == "dot") return _dot(v[0], v[1]);
        if (rule == "sum") return _sum(v[0]);
        if (rule == "most") return _most(v[0]);
        if (rule == "exp") return v[2].load(0) >> _halvings(_below(v[0].load(0), v[1].load(0)));
        if (rule == "gate") return _gate(v);
        if (rule == "embed") {
            return ((v[1].load(0) * v[2].load(0)) << 16) >> _extent(numbers, SHAPE_EXPONENT);
        }
        if (rule == "rank") return _rank(v[0], int256(q.element));
        if (rule == "ranked") return (IDS - 1) - (v[0].load(0) & (IDS - 1));
        if (rule == "mass") return _mass(q, v);
        if (rule == "scale") return _scale(v[0].load(0), v[1].load(0));
        if (rule == "target") return _target(s.seed, uint256(q.constants[0]), v[0].load(0));
        if (rule == "hit") return _hit(v, int256(q.element));
        if (rule == "found") {
            _within(v[0].load(0), 1, IDS);
            return v[0].load(0) - 1;
        }
        if (rule == "sums") return _sum(v[0]) + _sum(v[1]);
        if (rule == "digit") return _digit(q, v);
        if (rule == "choose") return _choose(q, v);
        if (rule == "equal") {
            return _equals(v[0], v[0].count, v[1].load(0));
        }
        return 0; // nothing: the second term of a product that has one
    }

    // Nothing below overflows: an operation has at most 256 inputs of 8 bytes, a product 256 of 2 bytes and 1.

    function _sum(OpeningReader.Values memory v) private pure returns (int256 total) {
        unchecked {
            (uint256 place, uint256 width, uint256 end) = _span(v, v.count);
            for (; place < end; place += width) {
                total += OpeningReader.read(place, width);
            }
        }
    }

    function _most(OpeningReader.Values memory v) private pure returns (int256 most) {
        unchecked {
            most = v.load(0);
            (uint256 place, uint256 width, uint256 end) = _span(v, v.count);
            for (; place < end; place += width) {
                int256 value = OpeningReader.read(place, width);
                if (value > most) most = value;
            }
        }
    }

    function _dot(OpeningReader.Values memory a, OpeningReader.Values memory b) private pure returns (int256 total) {
        uint256 count = a.count;
        if (count != b.count) revert InvalidOpening();
        if (a.width == 1 && b.width == 1) {
            assembly {
                let x := mload(a)
                let y := mload(b)
                for { let end := add(x, count) } lt(x, end) {} {
                    let left := mload(x)
                    let right := mload(y)
                    total := add(total, mul(signextend(0, byte(0, left)), signextend(0, byte(0, right))))
                    x := add(x, 1)
                    y := add(y, 1)
                }
            }
            return total;
        }
        unchecked {
            (uint256 left, uint256 wide,) = _span(a, count);
            (uint256 right, uint256 narrow, uint256 end) = _span(b, count);
            for (; right < end; right += narrow) {
                int256 factor = OpeningReader.read(left, wide);
                int256 weight = OpeningReader.read(right, narrow);
                _within(factor, -32768, 32768);
                _within(weight, -128, 128);
                total += factor * weight;
                left += wide;
            }
        }
    }

    function _gate(OpeningReader.Values[] memory v) private pure returns (int256) {
        int256 gate = v[0].load(0);
        _within(gate, -WIDE, WIDE);
        int256 act = _clamp((gate * v[v.length - 1].load(0)) >> 16);
        if (v.length == 2) return act;
        int256 up = v[1].load(0);
        _within(up, -WIDE, WIDE);
        return (act * _clamp(up)) >> 16;
    }

    /// The higher logit, of equals the lower id.
    function _rank(OpeningReader.Values memory v, int256 element) private pure returns (int256 best) {
        unchecked {
            int256 id = IDS - 1 - element * int256(OpeningReader.TILE);
            best = type(int256).min;
            (uint256 place, uint256 width, uint256 end) = _span(v, v.count);
            for (; place < end; place += width) {
                int256 logit = OpeningReader.read(place, width);
                _within(logit, -WIDE, WIDE);
                int256 rank = logit * IDS + id--;
                if (rank > best) best = rank;
            }
        }
    }

    /// Constants: the temperature, and whether a k-th largest logit bounds what is kept.
    function _mass(Question calldata q, OpeningReader.Values[] memory v) private pure returns (int256) {
        int256 best = v[1].load(0);
        _within(best, -WIDE, WIDE);
        uint256 last = v[0].count - 1;
        bool bounded = q.constants[1] != 0;
        int256 threshold = bounded ? v[2].load(0) - WIDE : -WIDE;
        int256 same = bounded ? v[3].load(0) : int256(0); // equals of the threshold before this logit
        unchecked {
            (uint256 place, uint256 width, uint256 end) = _span(v[0], last);
            for (; place < end; place += width) {
                int256 other = OpeningReader.read(place, width);
                _within(other, -WIDE, best);
                if (other == threshold) ++same;
            }
        }
        int256 logit = v[0].load(last);
        _within(logit, -WIDE, best);
        int256 entry = v[v.length - 1].load(0);
        if (bounded && (logit < threshold || (logit == threshold && same >= v[2].load(1)))) return 0;
        return entry >> _halvings(_power(q, v));
    }

    function _scale(int256 mass, int256 total) private pure returns (int256) {
        _within(total, 0, MASS);
        _within(mass, 0, total);
        uint256 bits = _bits(uint256(total));
        return bits > 31 ? mass >> (bits - 31) : mass;
    }

    function _target(bytes32 seed, uint256 position, int256 whole) private pure returns (int256) {
        _within(whole, 0, (1 << 31) - 1);
        return (int256(_draw(seed, position)) * whole) >> 32;
    }

    /// Word 0 of Philox4x32-10: key (s0, s1), counter (position, s2, s3, s4).
    function _draw(bytes32 seed, uint256 position) private pure returns (uint256) {
        uint256 c0 = position & 0xffffffff;
        uint256 c1 = _word(seed, 2);
        uint256 c2 = _word(seed, 3);
        uint256 c3 = _word(seed, 4);
        uint256 k0 = _word(seed, 0);
        uint256 k1 = _word(seed, 1);
        for (uint256 round; round < 10; ++round) {
            uint256 low = 0xd2511f53 * c0;
            uint256 high = 0xcd9e8d57 * c2;
            (c0, c1, c2, c3) =
                ((high >> 32) ^ c1 ^ k0, high & 0xffffffff, (low >> 32) ^ c3 ^ k1, low & 0xffffffff);
            k0 = (k0 + 0x9e3779b9) & 0xffffffff;
            k1 = (k1 + 0xbb67ae85) & 0xffffffff;
        }
        return c0;
    }

    function _word(bytes32 seed, uint256 index) private pure returns (uint256) {
        uint256 x = (uint256(seed) >> (224 - 32 * index)) & 0xffffffff;
        return ((x & 0xff) << 24) | ((x & 0xff00) << 8) | ((x >> 8) & 0xff00) | (x >> 24);
    }

    function _hit(OpeningReader.Values[] memory v, int256 element) private pure returns (int256) {
        int256 before = v[1].load(0);
        int256 target = v[2].load(0);
        if (before > target) return 0;
        unchecked {
            int256 id = element * int256(OpeningReader.TILE) + 1;
            (uint256 place, uint256 width, uint256 end) = _span(v[0], v[0].count);
            for (; place < end; place += width) {
                before += OpeningReader.read(place, width);
                if (before > target) return id;
                ++id;
            }
        }
        return 0;
    }

    /// Constants: which digit of six, and tiles of a row.
    function _digit(Question calldata q, OpeningReader.Values[] memory v) private pure returns (int256 count) {
        int256 before = q.constants[0] == 0 ? int256(0) : v[1].load(0);
        _within(before, 0, 2 * WIDE);
        int256 wanted = before * 128 + int256(q.element / uint256(q.constants[1]));
        uint256 down = uint256(7 * (5 - q.constants[0]));
        unchecked {
            (uint256 place, uint256 width, uint256 end) = _span(v[0], v[0].count);
            for (; place < end; place += width) {
                int256 logit = OpeningReader.read(place, width);
                _within(logit, -WIDE, WIDE);
                if ((logit + WIDE) >> down == wanted) ++count;
            }
        }
    }

    /// Constants: which digit of six, and how many logits are kept.
    function _choose(Question calldata q, OpeningReader.Values[] memory v) private pure returns (int256) {
        (int256 before, int256 rest) =
            q.constants[0] == 0 ? (int256(0), q.constants[1]) : (v[1].load(0), v[1].load(1));
        _within(before, 0, 2 * WIDE);
        _within(rest, 1, IDS);
        unchecked {
            (uint256 place, uint256 width, uint256 end) = _span(v[0], v[0].count);
            for (uint256 bin = place; bin < end; bin += width) {
                _within(OpeningReader.read(bin, width), 0, IDS);
            }
            int256 chosen = int256(v[0].count);
            while (end > place) {
                end -= width;
                --chosen;
                int256 total = OpeningReader.read(end, width);
                if (total >= rest) return q.element == 0 ? before * 128 + chosen : rest;
                rest -= total;
            }
        }
        revert InvalidOpening();
    }

    /// How many of the first logits are the threshold.
    function _equals(OpeningReader.Values memory v, uint256 first, int256 digits) private pure returns (int256 count) {
        unchecked {
            (uint256 place, uint256 width, uint256 end) = _span(v, first);
            for (; place < end; place += width) {
                if (OpeningReader.read(place, width) + WIDE == digits) ++count;
            }
        }
    }

    // Small things

    /// Where the first `count` integers of a slice begin, the bytes of one, and where they end.
    function _span(OpeningReader.Values memory v, uint256 count) private pure returns (uint256, uint256, uint256) {
        return (v.place, v.width, v.place + count * v.width);
    }

    function _within(int256 value, int256 low, int256 high) private pure {
        if (value < low || value > high) revert InvalidOpening();
    }

    function _clamp(int256 value) private pure returns (int256) {
        return value > GATE ? GATE : value < -GATE ? -GATE : value;
    }

    function _halvings(int256 power) private pure returns (uint256) {
        uint256 whole = uint256(power) >> 16;
        return whole < 31 ? whole : 31;
    }

    function _bits(uint256 x) private pure returns (uint256 bits) {
        while (x != 0) {
            ++bits;
            x >>= 1;
        }
    }
}
