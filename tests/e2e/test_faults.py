"""What a machine does to a node: a full disk (a small file system in a private namespace, where that is allowed)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from devnet_process import environment, wait_until

from node.client import Client, Unreachable
from node.devnet import Options, make_folders
from node.exits import DISK

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DISK_BYTES = 24 * 1024 * 1024


def allowed() -> bool:
    """Whether this machine lets a process mount a file system that only it sees."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not allowed(), reason="mounting in a private namespace is not allowed here")
def test_a_full_disk_ends_the_node_with_74_and_space_brings_it_back(tmp_path: Path) -> None:
    (member,) = make_folders(Options(1, 200, tmp_path / "devnet", 0, "numpy", False, None))
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size={DISK_BYTES} tmpfs {disk} && cp -r {member.folder.root}/. {disk} && "
        f"{sys.executable} -m node run --data-dir {disk} --engine none; echo first $?; "
        f"rm -f {disk}/filler; exec {sys.executable} -m node run --data-dir {disk} --engine none"
    )
    log = (tmp_path / "node.log").open("wb")
    process = subprocess.Popen(["unshare", "-Urm", "sh", "-c", script], env=environment(), stdout=log, stderr=log)
    client = Client(member.rpc)

    def height() -> int:
        try:
            return client.number("eth_blockNumber")
        except Unreachable:
            return -1

    text = (tmp_path / "node.log").read_text
    try:
        wait_until("two blocks", lambda: height() >= 2)
        inside = Path(f"/proc/{process.pid}/root") / disk.relative_to("/")
        with pytest.raises(OSError, match="space"), (inside / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(os.urandom(1024))
        wait_until("the node to end", lambda: "first " in text())
        assert f"first {DISK}" in text(), text()[-2000:]
        assert "no space left" in text() and "Traceback" not in text()
        before = 2
        wait_until("the chain to go on", lambda: height() > before)
    finally:
        process.terminate()
        process.wait(30)
        log.close()
