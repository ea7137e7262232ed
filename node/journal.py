"""Results of models, on disk before they are sent: a restarted validator says the same thing again without computing.

One JSON file a result, written whole or not at all. What is lost is computed again, with the same bits.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import structlog

from node.duties import Result

FILE_BYTES_MAX = 4 * 1024 * 1024
BYTES = ("task", "trace_key", "root", "salt")
"""Fields of a result that are bytes, written in hexadecimal."""

log = structlog.get_logger("journal")


class Journal:
    """Files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> Iterator[Result]:
        """Every result that is readable; others are removed, for they can be computed again."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                if path.stat().st_size > FILE_BYTES_MAX:
                    raise ValueError(f"{path.stat().st_size} bytes")
                fields = json.loads(path.read_text())
                for name in BYTES:
                    fields[name] = bytes.fromhex(fields[name])
                fields["tokens"] = tuple(fields["tokens"])
                result = Result(**fields)
            except (ValueError, KeyError, TypeError) as error:
                log.warning("unreadable result removed", file=path.name, reason=str(error))
                path.unlink(missing_ok=True)
            else:
                yield result

    def add(self, result: Result) -> None:
        """Keep a result; it is on the disk when this returns. Raises OSError."""
        fields = asdict(result)
        for name in BYTES:
            fields[name] = fields[name].hex()
        path = self._path(result)
        part = path.with_suffix(".part")
        with part.open("w") as file:
            json.dump(fields, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def remove(self, result: Result) -> None:
        """The task is finished."""
        self._path(result).unlink(missing_ok=True)

    def _path(self, result: Result) -> Path:
        kind = "answer" if result.tokens else "check"
        return self._folder / f"{result.task.hex()}-{result.trace_key.hex()[:16]}-{kind}.json"
