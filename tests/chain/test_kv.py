"""The key-value store: batches are whole, survive kill -9, and damaged bytes are never returned."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chain.kv import KV, KVCorrupt, KVError, KVFull, KVLocked, LevelKV, MemoryKV

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["memory", "level"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> KV:
    return MemoryKV() if request.param == "memory" else LevelKV(tmp_path / "db")


def test_reads_what_was_written_and_forgets_what_was_deleted(kv):
    kv.write([(b"a", b"1"), (b"b", b""), (b"c", b"3")])
    kv.write([(b"a", b"one"), (b"c", None), (b"absent", None)])
    assert (kv.get(b"a"), kv.get(b"b"), kv.get(b"c"), kv.get(b"d")) == (b"one", b"", None, None)


def test_iterates_a_prefix_in_key_order(kv):
    kv.write([(bytes([prefix, number]), bytes([number])) for prefix in (1, 2, 3) for number in (9, 0, 255, 4)])
    assert [key for key, _ in kv.iterate(b"\x02")] == [b"\x02\x00", b"\x02\x04", b"\x02\x09", b"\x02\xff"]
    assert list(kv.iterate(b"\x04")) == []
    assert len(list(kv.iterate(b""))) == 12


def test_a_batch_whose_source_fails_writes_nothing(kv):
    def batch():
        yield b"first", b"1"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        kv.write(batch())
    assert kv.get(b"first") is None


def test_a_closed_store_refuses(kv):
    kv.write([(b"a", b"1")])
    kv.close()
    for use in (lambda: kv.get(b"a"), lambda: kv.write([(b"a", b"2")]), lambda: list(kv.iterate(b""))):
        with pytest.raises(KVError):
            use()


def test_what_was_written_is_there_after_reopening(tmp_path):
    first = LevelKV(tmp_path / "db")
    first.write([(b"a", b"1")])
    first.close()
    assert LevelKV(tmp_path / "db").get(b"a") == b"1"


def test_a_store_in_use_is_locked(tmp_path):
    held = LevelKV(tmp_path / "db")
    with pytest.raises(KVLocked, match="in use by this process"):
        LevelKV(tmp_path / "db")
    script = "import sys\nfrom chain.kv import *\ntry:\n LevelKV(sys.argv[1])\nexcept KVLocked as error:\n print(error)"
    command = [sys.executable, "-c", script, str(tmp_path / "db")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "in use by another process" in run.stdout
    held.close()


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KVError, match="cannot be used"):
        LevelKV(tmp_path / "file" / "db")


WRITER = """
import sys
from chain.kv import LevelKV
kv = LevelKV(sys.argv[1])
for number in range(1_000_000):
    key = number.to_bytes(4, "big")
    kv.write([(b"x" + key, key * 250), (b"y" + key, key * 250), (b"last", key)])
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_kill_minus_nine_while_writing_loses_nothing_and_leaves_no_half_batch(tmp_path):
    path = tmp_path / "db"
    for batches_before_kill in (1, 40, 150):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        confirmed = -1
        for line in writer.stdout:
            confirmed = int(line)
            if confirmed >= batches_before_kill:
                break
        os.kill(writer.pid, signal.SIGKILL)
        for line in writer.stdout:  # what it had confirmed before it died
            if line.endswith("\n"):
                confirmed = int(line)
        writer.wait()
        kv = LevelKV(path)
        last = int.from_bytes(kv.get(b"last"), "big")
        assert last >= confirmed
        for number in range(last + 1):
            key = number.to_bytes(4, "big")
            assert kv.get(b"x" + key) == kv.get(b"y" + key) == key * 250
        kv.close()


def test_a_flipped_byte_in_a_table_is_found_when_it_is_read(tmp_path):
    path = tmp_path / "db"
    kv = LevelKV(path)
    kv.write([(number.to_bytes(4, "big"), os.urandom(1000)) for number in range(2_000)])
    kv.close()
    LevelKV(path).close()  # opening moves the log into a table
    (table,) = path.glob("*.ldb")
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 0x01
    table.write_bytes(data)
    kv = LevelKV(path)
    with pytest.raises(KVCorrupt, match="damaged"):
        for number in range(2_000):
            kv.get(number.to_bytes(4, "big"))
    with pytest.raises(KVCorrupt):
        list(kv.iterate(b""))
    kv.close()


FULL = """
import resource, signal, sys
from chain.kv import LevelKV, KVError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kv = LevelKV(sys.argv[1])
kv.write([(b"kept", b"1")])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for number in range(100):
        kv.write([(number.to_bytes(4, "big"), bytes(10_000))])
except KVError as error:
    print(type(error).__name__, error)
"""


def test_a_write_that_the_disk_refuses_is_reported_and_what_was_committed_stays(tmp_path):
    """A file-size limit stands in for a full disk: LevelDB's write fails half-way in the same manner."""
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "db")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("KV"), run.stdout + run.stderr
    assert LevelKV(tmp_path / "db").get(b"kept") == b"1"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_apart(tmp_path):
    kv = LevelKV(tmp_path / "db")
    kv.close()
    log = max((tmp_path / "db").glob("*.log"))
    assert log.exists()
    error = kv._translated(OSError(28, "No space left on device"))
    assert isinstance(error, KVFull)
    assert "free some" in str(error)
