"""The house's rules that a machine can check: layers, bans, types, style, and integers where nodes must agree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AGREEING = ("primitives", "consensus", "vm", "chain")


def run_tool(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_imports_go_down_only_and_bans_hold() -> None:
    run_tool(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")


def test_ruff_finds_nothing() -> None:
    run_tool(str(Path(sys.executable).parent / "ruff"), "check", "--no-cache", ".")


@pytest.mark.slow
def test_mypy_strict_in_primitives_consensus_and_chain() -> None:
    run_tool(sys.executable, "-m", "mypy", "--no-incremental")


@pytest.mark.parametrize("package", AGREEING)
def test_no_float_where_nodes_must_agree(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_float = isinstance(node, ast.Constant) and isinstance(node.value, float)
            divides = isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)
            names_float = isinstance(node, ast.Name) and node.id == "float"
            if is_float or divides or names_float:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def test_every_module_says_what_it_owns() -> None:
    missing = []
    for package in (*AGREEING, "inference", "genesis", "p2p", "rpc", "node", "contracts"):
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text()
            if source.strip() and ast.get_docstring(ast.parse(source)) is None:
                missing.append(str(path.relative_to(ROOT)))
    assert not missing


def test_readme_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    packages = (*AGREEING, "inference", "genesis", "p2p", "rpc", "node", "contracts")
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    assert [str(path.relative_to(ROOT)) for path in paths if path.name not in readme] == []
