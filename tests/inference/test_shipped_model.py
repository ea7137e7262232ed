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

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("The sea", "It was a", "The people of the United States", "There is no ", "He said ")
TEMPERATURE, TOP_K = 45875, 40  # 0.7


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine("numpy", folder())


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Every word of the text that trained the model."""
    text = lzma.decompress((ROOT / "training" / "text" / "corpus.txt.xz").read_bytes()).decode("ascii")
    return set(re.findall(r"[a-z]+", text.lower()))


def continuation(engine: Engine, prompt: str, temperature: int, seed: int) -> str:
    answer = engine.generate(
        tokenizer.encode(prompt), 120, temperature, TOP_K if temperature else 0, bytes([seed]) * 32, bytes(32)
    )
    return tokenizer.decode(answer.tokens)


def share_of_words(text: str, prompt: str, words: set[str]) -> float:
    """Share of whole words that are in the vocabulary; the last may be cut short and is left out."""
    found = re.findall(r"[a-z]+", (prompt + text).lower())[:-1]
    return sum(word in words for word in found) / len(found)


def test_it_is_at_most_two_megabytes_and_speaks_bytes(engine: Engine) -> None:
    assert sum(path.stat().st_size for path in folder().iterdir()) <= 2_000_000
    manifest = engine.model.manifest
    assert (manifest.name, manifest.tokenizer, manifest.stop) == (DEFAULT_MODEL, tokenizer.KIND, (256,))
    assert manifest.shape.context >= 256
    assert len(manifest.known_answers) >= 2


@pytest.mark.parametrize("prompt", PROMPTS)
def test_it_continues_english_in_english_words(engine: Engine, words: set[str], prompt: str) -> None:
    texts = [continuation(engine, prompt, 0, 0), *(continuation(engine, prompt, TEMPERATURE, s) for s in range(3))]
    for text in texts:
        print(repr(prompt + text))
        assert text.isascii()
        assert len(re.findall(r"[a-z]+", text.lower())) >= 12
    for text in texts[1:]:  # greedy text may run in circles, sampled text may not
        assert len(set(re.findall(r"[a-z]{3,}", text.lower()))) >= 8
    shares = [share_of_words(text, prompt, words) for text in texts]
    assert sum(shares) / len(shares) > 0.85, shares
    assert shares[0] > 0.9


def test_chance_letters_are_not_taken_for_english(words: set[str]) -> None:
    """The measure above can fail."""
    assert share_of_words("e thoal rnis tehe dwo ahin ssec gnar oftu", "", words) < 0.5


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_both_engines_give_its_known_answers_and_verify_each_other(engine: Engine) -> None:
    other = open_engine("torch", folder())
    how = (TEMPERATURE, TOP_K, bytes(range(32)), bytes(32))
    prompt = tokenizer.encode("The captain of the ship ")
    answer = engine.generate(prompt, 48, *how)
    assert other.generate(prompt, 48, *how).tokens == answer.tokens
    verdict = other.verify(prompt, answer.tokens, *how)
    assert (verdict.root, verdict.bad) == (answer.root, NO_BAD_POSITION)


def test_the_tokenizer_turns_back_what_it_made() -> None:
    for text in ("", "The sea", "caf\u00e9 \u20ac \U0001f40b"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([84, 256, 104]) == "Th"
    assert tokenizer.decode([0xFF]) == "\ufffd"


def test_a_model_that_is_not_shipped_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="'giant'"):
        folder("giant")
