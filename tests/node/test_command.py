"""What messages tell a user to type works where it is typed."""

import sys
from pathlib import Path

import pytest

from node.command import as_typed


def started(monkeypatch: pytest.MonkeyPatch, folder: Path, argv0: str, path: str = "/nonexistent") -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(sys, "argv", [argv0])


def test_a_script_that_is_not_on_the_path_is_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, tmp_path, ".venv/bin/labora")
    assert as_typed("run", "--data-dir", "a folder") == ".venv/bin/labora run --data-dir 'a folder'"
    started(monkeypatch, tmp_path, str(tmp_path / ".venv/bin/labora"))
    assert as_typed("task") == ".venv/bin/labora task"
    started(monkeypatch, tmp_path, "/elsewhere/bin/labora")
    assert as_typed("task") == "/elsewhere/bin/labora task"


def test_a_module_is_named_with_its_python_whose_link_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "python").symlink_to(sys.executable)
    started(monkeypatch, tmp_path, "/checkout/node/__main__.py")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "python"))
    assert as_typed("validator", "status") == "env/python -m node validator status"


def test_a_program_on_the_path_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "labora"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    started(monkeypatch, tmp_path, "/checkout/node/__main__.py", str(tmp_path))
    assert as_typed("task", "post") == "labora task post"
