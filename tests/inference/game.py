"""The game over an execution, played to its end by two parties in one process, with every check that the chain makes of
a move (docs/formats.md, Disputes). Used by tests."""

from dataclasses import dataclass, field

from inference.defence import LIST, OP, TILE, TRACE, Game, Party, Place, Shown
from inference.opening import PAGE_LEVELS, Hash, cut, judge, leaf_hash, sha256
from inference.ops import TILE as TILE_ELEMENTS
from inference.ops import leaf_count, op_list, payload_bytes
from inference.program import PIECE_BYTES
from primitives import merkle
from primitives.hashing import keccak

MESSAGE_BYTES_MAX = 16 * 1024


@dataclass
class Played:
    """How a game went."""

    convicted: bool = False
    messages: int = 1
    """The challenge included."""
    op: str = ""
    rule: str = ""
    sizes: list[int] = field(default_factory=list)

    def said(self, data: bytes) -> bytes:
        """One more message."""
        self.messages += 1
        self.sizes.append(len(data))
        assert len(data) <= MESSAGE_BYTES_MAX, len(data)
        return data


def play(challenger: Party, accused: Party, leaf: int | None) -> Played:
    """The whole game; leaf None: it is looked for in the trace."""
    return _Referee(challenger, accused).play(leaf)


class _Referee:
    def __init__(self, challenger: Party, accused: Party) -> None:
        self._challenger, self._accused = challenger, accused
        self._played, self._shown = Played(), ()
        statement = accused.execution.statement
        self._statement, self._shape = statement, accused.execution.manifest.shape

    def play(self, leaf: int | None) -> Played:
        found = leaf is None
        leaf_of_trace = bytes(32)
        if leaf is None:
            count = leaf_count(self._shape, self._statement.task)
            leaf, leaf_of_trace = self._descend(Game(), TRACE, count, self._statement.trace, sha256)
            assert leaf is not None
        game = Game(leaf, None, self._shown)
        ops = op_list(self._accused.execution.facts, self._statement.task, self._challenger.leaves[leaf])
        top = _height(len(ops) - 1)
        first = cut(self._accused.show(game, Place(LIST, top, 0)), 32)
        operations = _levels([merkle.digest(root) for root in first] if top <= PAGE_LEVELS else first, keccak)[-1][0]
        number, root = self._descend(game, LIST, len(ops) - 1, operations, keccak)
        number = len(ops) - 1 if number is None else number
        op, name = ops[number], self._challenger.leaves[leaf]
        game, tile = Game(leaf, number, self._shown), None
        pieces = -(-payload_bytes(self._shape, self._statement.task, name) // PIECE_BYTES)
        if number == len(ops) - 1 and found and pieces > 1:
            tile, _ = self._descend(game, OP, pieces, leaf_of_trace, sha256, leaf=True)
        elif number < len(ops) - 1:
            count = -(-op.length // TILE_ELEMENTS)
            tile, digest = self._descend(game, OP, count, root, keccak) if count > 1 else (0, root)
            game = Game(leaf, number, self._shown)
            elements = self._played.said(self._accused.show(game, Place(TILE, 0, tile)))
            assert merkle.digest(elements) == digest
            assert len(elements) == op.width * min(TILE_ELEMENTS, op.length - tile * TILE_ELEMENTS)
            self._shown += (Shown(Place(TILE, 0, tile), elements),)
        opening = self._challenger.open(Game(leaf, number, self._shown))
        element = opening.element
        if tile is not None:
            assert element == tile if number == len(ops) - 1 else element // TILE_ELEMENTS == tile
        data = self._played.said(opening.data)
        self._played.convicted = not judge(self._statement, operations, name, number, element, data)
        self._played.op, self._played.rule = op.name, op.rule
        return self._played

    def _descend(self, game: Game, tree: str, count: int, node: bytes, hash_: Hash,
                 leaf: bool = False) -> tuple[int | None, bytes]:  # fmt: skip
        """(leaf of the tree, its hash); None where the challenger says that all agree."""
        level, index, first = _height(count), 0, True
        while True:
            place, below = Place(tree, level, index), max(0, level - PAGE_LEVELS)
            data = self._played.said(self._accused.show(game, place))
            hashes = cut(data, 32)
            row = -(-count >> below) if below else count
            assert len(hashes) == min(1 << (level - below), row - (index << (level - below)))
            leaves = [merkle.digest(root) for root in hashes] if tree == LIST and not below else hashes
            root = _levels(leaves, hash_)[-1][0]
            if leaf and first:
                root = leaf_hash(self._statement.trace_key, self._challenger.leaves[game.leaf or 0], root)
            assert root == node, "a page that does not make its node"
            self._shown += (Shown(place, data),)
            choice = self._challenger.choose(Game(game.leaf, game.op, self._shown))
            self._played.said(b"".join(choice.path))
            if choice.index is None:
                assert tree == LIST and first
                return None, b""
            assert choice.child == hashes[choice.index]
            found = merkle.digest(choice.child) if tree == LIST and not below else choice.child
            assert _by_path(found, choice.index, len(hashes), choice.path, hash_) == _levels(leaves, hash_)[-1][0]
            level, index, node, first = below, (index << (level - below)) + choice.index, choice.child, False
            if level == 0:
                return index, node


def _height(count: int) -> int:
    return (count - 1).bit_length()


def _levels(hashes: list[bytes], hash_: Hash) -> list[list[bytes]]:
    tree = [hashes]
    while len(level := tree[-1]) > 1:
        tree.append([hash_(b"\1" + level[i] + level[i + 1]) if i + 1 < len(level) else level[i]
                     for i in range(0, len(level), 2)])  # fmt: skip
    return tree


def _by_path(found: bytes, index: int, count: int, path: tuple[bytes, ...], hash_: Hash) -> bytes:
    rest = list(reversed(path))
    while count > 1:
        if index ^ 1 < count:
            sibling = rest.pop()
            found = hash_(b"\1" + (sibling + found if index & 1 else found + sibling))
        index, count = index >> 1, (count + 1) >> 1
    assert not rest
    return found
