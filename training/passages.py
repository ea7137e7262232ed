"""The training text as a model sees it: documents, passages of a sentence or two, ids. Owns the split into trained and
held out.
"""

import json
import lzma
import re
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEXT = Path(__file__).resolve().parent / "text" / "corpus.txt.xz"
STOP, STOP_TEXT, VOCABULARY = 256, "<|end|>", 2048
PASSAGE_CHARACTERS = 100  # a passage ends with the first sentence that reaches so many
# How byte-level BPE writes the bytes: printable ones as themselves, the others from U+0100 on (Radford et al., GPT-2).
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_SYMBOLS = [chr(byte) if byte in PRINTABLE else chr(256 + OTHERS.index(byte)) for byte in range(256)]
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!Mr\.)(?<!Mrs\.)(?<!Dr\.)(?<!St\.)(?<! [A-Z]\.)([\"')]*) (?=[\"'(]*[A-Z])")


def documents() -> tuple[list[str], list[str]]:
    """Training and held-out documents: every fortieth is held out."""
    parts = lzma.decompress(TEXT.read_bytes()).decode("ascii").split("\f")
    return [p for i, p in enumerate(parts) if i % 40 != 20], [p for i, p in enumerate(parts) if i % 40 == 20]


def passages(texts: list[str]) -> list[str]:
    """Whole sentences until PASSAGE_CHARACTERS are reached; short paragraphs share a passage, a line each."""
    found = []
    for text in texts:
        passage = ""
        for paragraph in text.split("\n"):
            joint = "\n"
            for sentence in SENTENCE_END.sub("\\1\0", paragraph).split("\0"):
                passage = f"{passage}{joint}{sentence}" if passage else sentence
                joint = " "
                if len(passage) >= PASSAGE_CHARACTERS:
                    found.append(passage)
                    passage = ""
        if passage:
            found.append(passage)
    return found


def make_tokenizer(texts: list[str], path: Path, vocabulary: int = VOCABULARY) -> Tokenizer:
    """Byte-level BPE in which ids 0 to 255 are the bytes, as in a model without a tokenizer, and 256 is STOP. Encoded
    texts begin with STOP, as every passage follows the end of another."""
    if not path.exists():
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - 1, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
        )
        learner.train_from_iterator(texts, trainer)
        merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
        ids = {symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)} | {STOP_TEXT: STOP}
        for left, right in merges:
            ids.setdefault(left + right, len(ids))
        made = Tokenizer(models.BPE(vocab=ids, merges=merges))
        made.add_special_tokens([AddedToken(STOP_TEXT, special=True)])
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.post_processor = processors.TemplateProcessing(
            single=f"{STOP_TEXT} $A", special_tokens=[(STOP_TEXT, STOP)]
        )
        path.write_text(made.to_str(pretty=False))
    return Tokenizer.from_file(str(path))


def bytes_of(tokenizer: Tokenizer) -> torch.Tensor:
    """Bytes that each id stands for; STOP stands for the space or line end between two passages."""
    sizes = [len(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())]
    return torch.tensor([1 if i == STOP else size for i, size in enumerate(sizes)])


class Stream:
    """Ids of passages, each after a STOP, and batches of windows that begin with a STOP."""

    def __init__(self, tokenizer: Tokenizer, texts: list[str]) -> None:
        encoded = tokenizer.encode_batch(texts)
        self.ids = torch.tensor([i for one in encoded for i in one.ids] + [STOP])
        self.starts = (self.ids == STOP).nonzero()[:, 0].tolist()
        self._order: list[int] = []

    def batch(self, rows: int, length: int) -> torch.Tensor:
        """Windows [rows, length + 1] in an order drawn anew each time all text has been seen."""
        windows: list[torch.Tensor] = []
        while len(windows) < rows:
            if not self._order:
                self._order = self._windows(256)
            begin = self._order.pop()
            if begin + length < len(self.ids):
                windows.append(self.ids[begin : begin + length + 1])
        return torch.stack(windows)

    def _windows(self, length: int) -> list[int]:
        """Beginnings that cover the text from a random passage on, each at the last STOP within its predecessor."""
        begins, limit = [], int(torch.randint(length, ()))
        for before, start in zip(self.starts, self.starts[1:], strict=False):
            if start > limit and start > before:
                begins.append(before)
                limit = max(before + length, start)
        return [begins[i] for i in torch.randperm(len(begins)).tolist()]

    def spread(self, count: int, length: int) -> torch.Tensor:
        """Windows [count, length + 1] at even distances, the same every time."""
        last = [s for s in self.starts if s + length < len(self.ids)]
        chosen = sorted({last[i * len(last) // count] for i in range(count)})
        return torch.stack([self.ids[s : s + length + 1] for s in chosen])

    def state(self) -> torch.Tensor:
        """What `load` needs to go on."""
        return torch.tensor(self._order)

    def load(self, order: torch.Tensor) -> None:
        """Go on where `state` was taken."""
        self._order = order.tolist()
