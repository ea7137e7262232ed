"""The model that every devnet serves: small enough, whole, and it answers in English."""

import lzma
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from genesis.models import DEFAULT_MODEL, folder
from inference import tokenizer
from inference.engine import Engine, open_engine
from inference.program import NO_BAD_POSITION
from inference.tokenizer import Tokenizer
from training.samples import samples

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("The sea", "It was a", "The people of the United States", "There is no", "He said")
TEMPERATURE, TOP_K = 45875, 40  # 0.7
TOKENS_MAX, SEEDS = 120, 4


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine("numpy", folder())


@pytest.fixture(scope="module")
def speech(engine: Engine) -> Tokenizer:
    return tokenizer.open_tokenizer(folder(), engine.model.manifest.tokenizer)


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every word of the text that trained the model."""
    text = lzma.decompress((ROOT / "training" / "text" / "corpus.txt.xz").read_bytes()).decode("ascii")
    return set(re.findall(r"[a-z]+", text.lower()))


def share_of_words(text: str, prompt: str, words: set[str]) -> float:
    """Share of whole words that are in the vocabulary; the last may be cut short and is left out."""
    found = re.findall(r"[a-z]+", (prompt + text).lower())[:-1]
    return sum(word in words for word in found) / len(found)


def test_it_is_at_most_two_megabytes_with_its_tokenizer(engine: Engine) -> None:
    assert sum(path.stat().st_size for path in folder().iterdir()) <= 2_000_000
    manifest = engine.model.manifest
    assert (manifest.name, manifest.stop) == (DEFAULT_MODEL, (256,))
    assert manifest.tokenizer == tokenizer.fingerprint(folder() / tokenizer.TOKENIZER_NAME)
    assert manifest.shape.context >= 256
    assert len(manifest.known_answers) >= 2


def test_it_continues_english_in_english_words_and_mostly_comes_to_an_end(
    engine: Engine, speech: Tokenizer, words: set[str]
) -> None:
    ended, different = [], set()
    for prompt in PROMPTS:
        for seed in range(SEEDS):
            answer = engine.generate(
                speech.encode(prompt), TOKENS_MAX, TEMPERATURE, TOP_K, bytes([seed]) * 32, bytes(32)
            )
            text = speech.decode(answer.tokens)
            print(repr(prompt + text))
            assert text.isascii()
            assert share_of_words(text, prompt, words) > 0.9
            ended.append(answer.tokens[-1] in engine.model.manifest.stop)
            different |= set(re.findall(r"[a-z]{3,}", text.lower()))
    assert sum(ended) >= 0.7 * len(ended)
    assert len(different) >= 80


def test_chance_letters_are_not_taken_for_english(words: set[str]) -> None:
    """The measure above can fail."""
    assert share_of_words("e thoal rnis tehe dwo ahin ssec gnar oftu", "", words) < 0.5


def test_the_printed_samples_are_what_it_says() -> None:
    assert (ROOT / "docs" / "samples.md").read_text() == samples(folder())


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_both_engines_give_its_known_answers_and_verify_each_other(engine: Engine, speech: Tokenizer) -> None:
    other = open_engine("torch", folder())
    how = (TEMPERATURE, TOP_K, bytes(range(32)), bytes(32))
    prompt = speech.encode("The captain of the ship")
    answer = engine.generate(prompt, 48, *how)
    assert other.generate(prompt, 48, *how).tokens == answer.tokens
    verdict = other.verify(prompt, answer.tokens, *how)
    assert (verdict.root, verdict.bad) == (answer.root, NO_BAD_POSITION)


def test_its_ids_below_256_are_bytes_and_every_text_follows_an_end(speech: Tokenizer) -> None:
    for text in ("", "The sea", "caf\u00e9 \u20ac \U0001f40b"):
        ids = speech.encode(text)
        assert ids[0] == 256 and speech.decode(ids) == text
        assert speech.decode([256, *text.encode()]) == text
    assert len(speech.encode("There is no doubt of it.")) < 12


def test_bytes_turn_back_too() -> None:
    for text in ("", "The sea", "caf\u00e9 \u20ac \U0001f40b"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([84, 256, 104]) == "Th"
    assert tokenizer.decode([0xFF]) == "\ufffd"


def test_a_model_that_is_not_shipped_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="'giant'"):
        folder("giant")
