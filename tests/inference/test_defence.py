"""Two who executed a task differently, or answered it falsely, play the game to its end: the one whose work does not
follow is convicted in few messages, each of at most 16 KB; the honest one never is, whoever challenges it."""

import numpy as np
import pytest

from inference import program as cip
from inference.build import random_model
from inference.defence import LIST, TILE, Choice, Game, NoMove, Party, Place, Shown
from inference.model import Model
from inference.opening import Execution
from inference.ops import TOKEN, VECTOR, Leaf, Task
from inference.referee import InvalidOpening
from inference.reference import NumpyExecutor
from inference.witness import record, work
from primitives.task import vector_of, words_of
from tests.inference import game
from tests.inference.test_openings import KEY, SEED, execute, shape_of, tasks_of

MESSAGES_MAX = 11


def party(model: Model, execution: Execution) -> Party:
    return Party(execution, model)


def other_program(model: Model) -> Model:
    """The same but for one weight of the last layer: under the same id, as a cheat would run it."""
    layer = model.manifest.shape.layers - 1
    name = f"layers.{layer}.down.weight"
    changed = np.array(model.tensors[name])
    changed[0, :] = -changed[0, :]
    changed[1, 0] += 1 if changed[1, 0] < 100 else -1
    return Model(model.manifest, model.model_id, {**model.tensors, name: changed})


@pytest.mark.parametrize("kind", sorted(cip.KINDS))
def test_another_program_under_the_same_id_is_convicted(kind: str) -> None:
    """The cheat plays as well as it can: its lists, tiles and trace all follow from its own weights."""
    model = random_model(shape_of(kind), 5)
    theirs_model = other_program(model)
    for task in tasks_of(model.manifest.shape):
        theirs, _ = execute(theirs_model, task)
        ours = record(NumpyExecutor(model), task, KEY, theirs.prompt, theirs.output)
        assert party(model, ours).root != party(theirs_model, theirs).root
        played = game.play(party(model, ours), party(theirs_model, theirs), None)
        assert played.convicted and played.rule == "dot"
        assert played.messages <= MESSAGES_MAX
        with pytest.raises(InvalidOpening, match="not those of"):  # it cannot open what the honest one committed
            game.play(party(theirs_model, theirs), party(model, ours), None)


def test_false_answers_under_true_traces_are_convicted_at_the_leaf_that_bad_names(small: Model) -> None:
    for task in tasks_of(small.manifest.shape):
        honest, _ = execute(small, task)
        words = list(honest.output)
        place = len(words) - 1
        if task.kind == cip.GENERATE:
            words[place] = (words[place] + 1) % 36
        else:
            vector = list(vector_of(words))
            vector[place] -= 1
            words = list(words_of(vector))
        ours = party(small, record(NumpyExecutor(small), task, KEY, honest.prompt, words))
        bad = task.prompt + place if task.kind == cip.GENERATE else place
        leaf = ours.bad_leaf(bad)
        names = {cip.GENERATE: Leaf(TOKEN, place), cip.EMBED: Leaf(VECTOR, 0), cip.SCORE: Leaf(VECTOR, place)}
        assert ours.leaves[leaf] == names[task.kind]
        assert game.play(ours, ours, leaf).convicted, "the accused holds the same execution"
        true = party(small, honest)
        assert not game.play(true, true, leaf).convicted
        if task.kind != cip.EMBED:
            with pytest.raises(NoMove):
                ours.bad_leaf(10**6)


def test_an_answer_of_several_pieces_is_opened_where_it_is_false() -> None:
    """An embedding of 1,100 elements is two pieces; element 1,050 is false, and nothing of the trace is."""
    model = random_model(shape_of("llama", width=1100, hidden=3, layers=1, layers_per_group=1), 3)
    task = Task(cip.EMBED, 2)
    honest, _ = execute(model, task)
    words = list(honest.output)
    words[1050] ^= 1
    e = honest
    false = Execution(e.manifest, e.tensors, task, KEY, e.prompt, words, e.payload)
    ours = Party(false, model)
    played = game.play(ours, ours, ours.bad_leaf(1050))
    assert played.convicted and played.rule == "leaf"
    assert not game.play(Party(honest, model), Party(honest, model), ours.bad_leaf(0)).convicted


def test_what_does_not_differ_gives_no_move(small: Model) -> None:
    execution, _ = execute(small, Task(cip.GENERATE, 4, 2, SEED))
    ours = party(small, execution)
    top = Place("trace", len(execution.trace) - 1, 0)
    with pytest.raises(NoMove, match="nothing differs"):
        ours.choose(Game(shown=(Shown(top, ours.show(Game(), top)),)))
    listed = work(execution, small, Leaf("state", 0))
    place = Place(LIST, len(listed.list_tree) - 1, 0)
    agreed = Game(0, None, (Shown(place, ours.show(Game(0), place)),))
    assert ours.choose(agreed) == Choice(None)
    tile = Shown(Place(TILE, 0, 0), ours.show(Game(0, 2), Place(TILE, 0, 0)))
    with pytest.raises(NoMove, match="nothing differs in tile 0"):
        ours.open(Game(0, 2, (*agreed.shown, tile)))
    for place in (Place("trace", 99, 0), Place("trace", 0, 10**6), Place(TILE, 0, 9), Place(LIST, 0, 10**6)):
        with pytest.raises(NoMove):
            ours.show(Game(0, 2), place)
    with pytest.raises(NoMove, match="not known"):
        ours.show(Game(), Place(LIST, 0, 0))
    with pytest.raises(NoMove, match="no leaf"):
        ours.working(10**6)
