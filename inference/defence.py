"""A party's moves in the game over one execution (docs/openings.md): what the accused shows, what the challenger goes
on with, what it opens in the end. Owns finding the first difference between one's own execution and what was shown,
and the mixed view (own work under the other side's hashes) that an opening is taken from.

    party = Party(execution, model)
    party.show(Game(leaf, op), Place(LIST, level, index))       # a page, or a tile's elements
    party.choose(game)                                          # -> Choice, of the page that was shown last
    party.open(game)                                            # -> Opening

Who moves when, and whether a move is accepted, is the chain's. Knows no chain, no clock and no process.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from inference import program as cip
from inference.model import Model
from inference.opening import (
    PAGE_LEVELS,
    Execution,
    Hash,
    Working,
    cut,
    first_difference,
    open_element,
    page,
    sha256,
    trace_leaves,
)
from inference.ops import TILE as TILE_ELEMENTS
from inference.ops import VECTOR, Leaf, leaf_number
from inference.program import PIECE_BYTES
from inference.witness import work
from primitives import merkle
from primitives.hashing import keccak

TRACE, LIST, OP, TILE = "trace", "list", "op", "tile"
TREES = (TRACE, LIST, OP, TILE)
WORKINGS_MAX = 2
"""Lists of ops that a party keeps: that of the disputed leaf, and of another dispute of the same execution."""
WORD_BYTES = 4

Tree = list[list[bytes]]


class NoMove(ValueError):
    """There is no such move: nothing differs from one's own work, or there is nothing at that place."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node of one of the trees, whose page is due or was shown (leaves are level 0), or a tile by its index. The tree
    of the last op of a list is that of the leaf's pieces."""

    tree: str
    level: int
    index: int


@dataclass(frozen=True, slots=True)
class Shown:
    """What was shown there: hashes one after the other (of a list's lowest page the ops' roots), or elements."""

    place: Place
    data: bytes


@dataclass(frozen=True, slots=True)
class Game:
    """How far a dispute has come: the leaf's number in the trace and the op's in the list, once they are known (of a
    list that agrees the last op's), and all that was shown on the way here, in order."""

    leaf: int | None = None
    op: int | None = None
    shown: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The child of the page shown last to go on with: its number in the page, its hash, and the siblings that lead from
    it to the page's node, lowest first. index None: all ops agree, it is the last one."""

    index: int | None
    child: bytes = bytes(32)
    path: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """The element of the op that does not follow, and its opening for the judge."""

    element: int
    data: bytes


class Party:
    """Somebody who holds an execution of the task. `working` gives the results of a leaf's ops."""

    def __init__(self, execution: Execution, model: Model,
                 working: Callable[[Execution, Model, Leaf], Working] = work) -> None:  # fmt: skip
        self.execution, self._model, self._work = execution, model, working
        self._workings: OrderedDict[Leaf, Working] = OrderedDict()

    @property
    def root(self) -> bytes:
        """T."""
        return self.execution.trace[-1][0]

    @cached_property
    def leaves(self) -> list[Leaf]:
        """The trace's leaves in order."""
        return trace_leaves(self.execution.manifest.shape, self.execution.task)

    def working(self, number: int) -> Working:
        """The ops of a leaf. Raises NoMove."""
        if not 0 <= number < len(self.leaves):
            raise NoMove(f"no leaf {number} in a trace of {len(self.leaves)}")
        leaf = self.leaves[number]
        if leaf not in self._workings:
            self._workings[leaf] = self._work(self.execution, self._model, leaf)
            if len(self._workings) > WORKINGS_MAX:
                self._workings.popitem(last=False)
        return self._workings[leaf]

    def bad_leaf(self, bad: int) -> int:
        """The number of the leaf whose result the answer does not hold: `bad` as a verdict has it."""
        task = self.execution.task
        if task.kind == cip.GENERATE:
            leaf = Leaf("token", bad - task.prompt)
        else:
            leaf = Leaf(VECTOR, bad if task.kind == cip.SCORE else 0)
        try:
            return leaf_number(self.execution.manifest.shape, task, leaf)
        except ValueError as error:
            raise NoMove(str(error)) from error

    def list_root(self, leaf: int) -> bytes:
        """The root of a leaf's list."""
        return self.working(leaf).list_tree[-1][0]

    def height(self, game: Game, tree: str) -> int:
        """The level of a tree's root. Raises NoMove."""
        return len(self._tree(game, tree)) - 1

    def show(self, game: Game, place: Place) -> bytes:
        """What is due at a place, by this party's execution. Raises NoMove."""
        tree, level, index = place.tree, place.level, place.index
        if tree == TILE:
            working, op = self._listed(game)
            tiles = cut(working.vectors[op], TILE_ELEMENTS * working.ops[op].width)
            return _at(tiles, index)
        nodes = self._tree(game, tree)
        if not 0 <= level < len(nodes) or not 0 <= index < len(nodes[level]):
            raise NoMove(f"no node {index} on level {level} of a tree of {len(nodes)} levels")
        if _holds_roots(place):
            return b"".join(self.working(_known(game.leaf, "leaf")).roots[index << level :][: 1 << level])
        return b"".join(page(nodes, level, index))

    def choose(self, game: Game) -> Choice:
        """The first child of the page shown last that is not this party's. Raises NoMove."""
        shown = game.shown[-1]
        theirs = cut(shown.data, 32)
        found = first_difference(cut(self.show(game, shown.place), 32), theirs)
        if found is None and shown.place.tree == LIST:
            return Choice(None)
        if found is None or found >= len(theirs):
            raise NoMove(f"nothing differs in the page of {shown.place}")
        return self.child(game, found)

    def child(self, game: Game, number: int) -> Choice:
        """A child of the page shown last."""
        shown = game.shown[-1]
        theirs = cut(shown.data, 32)
        lowest = [merkle.digest(root) for root in theirs] if _holds_roots(shown.place) else theirs
        hash_ = sha256 if shown.place.tree == TRACE or self._is_last(game) else keccak
        return Choice(number, theirs[number], tuple(merkle.path(_levels(lowest, hash_), number)))

    def open(self, game: Game) -> Opening:
        """The first element of the op that is not this party's, opened under the other side's hashes. Raises NoMove."""
        leaf = _known(game.leaf, "leaf")
        working = self.working(leaf)
        number = _known(game.op, "op")
        view = _View(self.execution, working, game)
        if self._is_last(game):
            element = self._piece(working, view)
        else:
            element = self._element(working, number, game.shown[-1])
        return Opening(element, open_element(view, number, element))

    def _is_last(self, game: Game) -> bool:
        """Whether the op is the leaf itself, whose tree is that of the leaf's pieces."""
        return game.op is not None and game.op == len(self.working(_known(game.leaf, "leaf")).ops) - 1

    def _tree(self, game: Game, tree: str) -> Tree:
        if tree == TRACE:
            return self.execution.trace
        working = self.working(_known(game.leaf, "leaf"))
        if tree == LIST:
            return working.list_tree
        if self._is_last(game):
            return self.execution.pieces(working.leaf)
        return self._listed(game)[0].tree(_known(game.op, "op"))

    def _listed(self, game: Game) -> tuple[Working, int]:
        """The working of a leaf and an op of it that has elements of its own."""
        working, op = self.working(_known(game.leaf, "leaf")), _known(game.op, "op")
        if not 0 <= op < len(working.vectors):
            raise NoMove(f"no op {op} in a list of {len(working.vectors)}")
        return working, op

    def _element(self, working: Working, number: int, shown: Shown) -> int:
        """Of the tile that was shown."""
        width, tile = working.ops[number].width, shown.place.index
        ours = cut(working.vectors[number], TILE_ELEMENTS * width)[tile]
        found = first_difference(cut(ours, width), cut(shown.data, width))
        if found is None:
            raise NoMove(f"nothing differs in tile {tile} of {working.ops[number].name}")
        return tile * TILE_ELEMENTS + found

    def _piece(self, working: Working, view: "_View") -> int:
        """The piece of the leaf that is not as committed, or not as answered."""
        theirs = view.execution.pieces(working.leaf)[0]
        found = first_difference(self.execution.pieces(working.leaf)[0], theirs)
        if found is None and len(theirs) > 1:
            answer = b"".join(word.to_bytes(WORD_BYTES, "little") for word in self.execution.output)
            payload = self.execution.payload(working.leaf)
            found = first_difference(cut(payload, PIECE_BYTES), cut(answer, PIECE_BYTES))
        return found or 0


class _Theirs(Execution):
    """One's own execution under the other side's trace."""

    def __init__(self, ours: Execution, leaf: Leaf, number: int, trace: Tree, pieces: Tree | None) -> None:
        super().__init__(ours.manifest, ours.tensors, ours.task, ours.trace_key, ours.prompt, ours.output, ours.payload)
        self.trace = trace
        self._leaf, self._number, self._shown_pieces = leaf, number, pieces

    def leaf_hash(self, leaf: Leaf) -> bytes:
        return self.trace[0][self._number] if leaf == self._leaf else super().leaf_hash(leaf)

    def pieces(self, leaf: Leaf) -> Tree:
        if leaf == self._leaf and self._shown_pieces is not None:
            return self._shown_pieces
        return super().pieces(leaf)


class _View(Working):
    """What a challenger opens from: of the disputed op the one tile that was shown, of everything before it its own
    results, which are the other side's too; all of it under the other side's hashes. Those that an opening needs are
    known: a neighbour on the path of an earlier leaf is earlier itself, or stands on the disputed one's path."""

    def __init__(self, ours: Execution, working: Working, game: Game) -> None:
        leaf, op = _known(game.leaf, "leaf"), _known(game.op, "op")
        shown: dict[str, list[Shown]] = {tree: [each for each in game.shown if each.place.tree == tree]
                                         for tree in TREES}  # fmt: skip
        last = op == len(working.ops) - 1
        pieces = _overlaid(ours.pieces(working.leaf), shown[OP], sha256) if last and shown[OP] else None
        trace = _overlaid(ours.trace, shown[TRACE], sha256)
        vectors = list(working.vectors)
        for tile in shown[TILE]:
            size = TILE_ELEMENTS * working.ops[op].width
            parts = cut(vectors[op], size)
            parts[tile.place.index] = tile.data
            vectors[op] = b"".join(parts)
        super().__init__(_Theirs(ours, working.leaf, leaf, trace, pieces), working.leaf, vectors)
        self.list_tree = _overlaid(working.list_tree, shown[LIST], keccak)
        self.roots = list(working.roots)
        for each in shown[LIST]:
            if _holds_roots(each.place):
                begin, roots = each.place.index << each.place.level, cut(each.data, 32)
                self.roots[begin : begin + len(roots)] = roots
        self._op, self._op_tree = op, None
        if not last:  # where one tile is the whole op no page of its tree was shown: its root stands in the list
            self._op_tree = _overlaid(working.tree(op), shown[OP], keccak) if shown[OP] else [[self.roots[op]]]

    def tree(self, number: int) -> Tree:
        return self._op_tree if number == self._op and self._op_tree is not None else super().tree(number)


def _overlaid(tree: Tree, shown: Sequence[Shown], hash_: Hash) -> Tree:
    """A tree with the pages that were shown of another one of the same extent, from its root on."""
    mixed = [list(level) for level in tree]
    for each in shown:
        level, below = each.place.level, max(0, each.place.level - PAGE_LEVELS)
        hashes = cut(each.data, 32)
        if _holds_roots(each.place):
            hashes = [merkle.digest(root) for root in hashes]
        for height, row in enumerate(_levels(hashes, hash_)):
            begin = each.place.index << (level - below - height)
            mixed[below + height][begin : begin + len(row)] = row
    return mixed


def _levels(hashes: Sequence[bytes], hash_: Hash) -> Tree:
    """Every level of the tree over a page, an odd node promoted."""
    tree = [list(hashes)]
    while len(level := tree[-1]) > 1:
        paired = [hash_(b"\1" + level[i] + level[i + 1]) for i in range(0, len(level) - 1, 2)]
        tree.append(paired + level[len(level) & ~1 :])
    return tree


def _holds_roots(place: Place) -> bool:
    """Whether a page is of a list and its lowest: then it holds the roots whose digests are the tree's leaves."""
    return place.tree == LIST and place.level <= PAGE_LEVELS


def _known(number: int | None, what: str) -> int:
    if number is None:
        raise NoMove(f"the {what} is not known yet")
    return number


def _at(items: Sequence[bytes], index: int) -> bytes:
    if not 0 <= index < len(items):
        raise NoMove(f"no tile {index} of {len(items)}")
    return items[index]
