"""The write-ahead log: a torn tail is cut, anything else that is missing is a lost log."""

from pathlib import Path

import pytest

from node.wal import LostLog, Record, begin_log, encode_record, open_log, segments, set_aside

PAYLOADS = [b"", b"a", b"LWAL" * 5, bytes(range(256))]


def written(folder: Path, payloads: list[bytes] = PAYLOADS) -> bytes:
    log, records = open_log(folder, 0)
    assert records == []
    for index, payload in enumerate(payloads):
        assert log.append(index % 3, payload) == index + 1
    log.sync()
    log.close()
    return segments(folder)[0].read_bytes()


def ends(payloads: list[bytes]) -> list[int]:
    """Offsets at which records end, 0 first."""
    offsets = [0]
    for index, payload in enumerate(payloads):
        offsets.append(offsets[-1] + len(encode_record(Record(index + 1, index % 3, payload))))
    return offsets


def test_what_was_appended_is_read_back_and_the_sequence_goes_on(tmp_path: Path) -> None:
    written(tmp_path)
    log, records = open_log(tmp_path, len(PAYLOADS))
    assert [record.payload for record in records] == PAYLOADS
    assert [record.sequence for record in records] == [1, 2, 3, 4]
    assert log.append(7, b"next") == 5
    log.sync()
    log.close()
    assert open_log(tmp_path, 5)[1][-1] == Record(5, 7, b"next")


def test_truncated_at_every_byte_the_whole_records_remain_unless_the_signer_knows_more(tmp_path: Path) -> None:
    data = written(tmp_path / "full")
    offsets = ends(PAYLOADS)
    assert offsets[-1] == len(data)
    for cut in range(len(data)):
        whole = sum(1 for end in offsets[1:] if end <= cut)
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / f"{1:016x}.wal").write_bytes(data[:cut])
        log, records = open_log(folder, whole)
        assert [record.sequence for record in records] == list(range(1, whole + 1))
        assert log.append(0, b"again") == whole + 1
        log.close()
        (folder / f"{1:016x}.wal").write_bytes(data[:cut])
        with pytest.raises(LostLog):
            open_log(folder, whole + 1)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    data = written(tmp_path / "full")
    last_begins = ends(PAYLOADS)[-2]
    folder = tmp_path / "flipped"
    folder.mkdir()
    path = folder / f"{1:016x}.wal"
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0xFF
        path.write_bytes(flipped)
        if position < last_begins:
            with pytest.raises(LostLog, match="good records follow"):
                open_log(folder, 0)
        else:  # cannot be told from a torn write, except by the signer
            log, records = open_log(folder, len(PAYLOADS) - 1)
            log.close()
            assert len(records) == len(PAYLOADS) - 1
            path.write_bytes(flipped)
            with pytest.raises(LostLog, match="signer released"):
                open_log(folder, len(PAYLOADS))


def test_rotation_keeps_the_old_segment_until_the_new_one_is_synced(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, 0)
    log.append(1, b"height 1")
    log.sync()
    log.rotate()
    log.append(1, b"height 2")
    assert len(segments(tmp_path)) == 2, "nothing is deleted before the new segment is on disk"
    log.sync()
    log.close()
    assert len(segments(tmp_path)) == 1
    log, records = open_log(tmp_path, 2)
    assert records == [Record(2, 1, b"height 2")]
    log.close()


def test_a_log_stays_bounded_over_many_heights(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, 0)
    for _ in range(50):
        log.rotate()
        log.append(1, bytes(1000))
        log.sync()
    log.close()
    assert sum(path.stat().st_size for path in segments(tmp_path)) < 2000


def test_a_crash_between_rotation_and_first_record_loses_nothing(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, 0)
    log.append(1, b"height 1")
    log.sync()
    log.rotate()
    log.close()
    log, records = open_log(tmp_path, 1)
    assert [record.payload for record in records] == [b"height 1"]
    assert log.append(1, b"height 2") == 2
    log.close()


def test_a_missing_segment_in_the_middle_is_a_lost_log(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path, 0)
    for _ in range(3):
        log.append(1, b"x")
        log._begin_segment()
    log.close()
    segments(tmp_path)[1].unlink()
    with pytest.raises(LostLog, match="follows"):
        open_log(tmp_path, 0)


def test_a_deleted_log_is_a_lost_log_when_the_signer_has_signed(tmp_path: Path) -> None:
    written(tmp_path)
    segments(tmp_path)[0].unlink()
    with pytest.raises(LostLog):
        open_log(tmp_path, 4)


def test_a_lost_log_is_set_aside_and_a_new_one_begins_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "wal"
    written(folder)
    aside = set_aside(folder)
    assert segments(aside) and not folder.exists()
    log = begin_log(folder, 42)
    assert log.append(0, b"") == 42
    log.sync()
    log.close()
    assert open_log(folder, 41)[1] == [Record(42, 0, b"")]
