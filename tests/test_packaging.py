"""The wheel holds the whole product and nothing else, and runs outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOTS = ("primitives", "consensus", "inference", "vm", "chain", "genesis", "p2p", "rpc", "node", "contracts")
CHECK = """
import importlib.metadata, json, sys
owners = importlib.metadata.packages_distributions()
from genesis.spec import devnet_spec, load_spec
spec = load_spec(devnet_spec(4, 1_700_000_000_000))
import inference.model, contracts, vm.system.abi
print(json.dumps({
    "owners": {name: sorted(set(owners[name])) for name in sys.argv[1:]},
    "files": {name: __import__(name).__file__ for name in sys.argv[1:]},
    "models": len(spec.models),
}))
"""


@pytest.mark.slow
def test_the_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: a build leaves folders behind, and would take up older ones
    for name in ROOTS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(build, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == set(ROOTS)
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    shipped = {str(Path(name).parent).replace("/", ".") for name in names if name.endswith("__init__.py")}
    assert shipped == declared
    on_disk = {str(path.relative_to(ROOT)) for root in ROOTS for path in (ROOT / root).rglob("*.py")}
    assert on_disk <= set(names), on_disk - set(names)

    environment = tmp_path / "env"
    venv.create(environment, with_pip=True, symlinks=True)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, cwd=tmp_path)
    # The dependencies come from this environment: a path file in another one does not run its editable finders.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LABORA"))}
    done = subprocess.run(
        [str(python), "-c", CHECK, *ROOTS], capture_output=True, text=True, check=False, cwd=tmp_path, env=clean
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["owners"] == {name: ["labora"] for name in ROOTS}
    assert all(path.startswith(str(site)) for path in found["files"].values()), found["files"]
    assert found["models"] >= 1
    shown = subprocess.run([str(environment / "bin" / "labora"), "--help"], capture_output=True, check=False, env=clean)
    assert shown.returncode == 0 and b"devnet" in shown.stdout
