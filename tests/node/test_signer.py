"""The signer: one signature a step, remembered before it leaves."""

import os
from pathlib import Path

import pytest

from node.signer import SLOT_BYTES, FileSigner, RefusedToSign, SignerLocked, SignerMissing, create_or_open
from primitives.keys import address_of
from primitives.vote import Proposal, Signable, SignContext, Vote, VoteType, signer_of

KEY = b"\x11" * 32
CONTEXT = SignContext(31337, b"\x22" * 32)
A, B = b"\xaa" * 32, b"\xbb" * 32


def proposal(height: int, round_: int, block: bytes = A) -> Proposal:
    return Proposal(height, round_, block, -1, 100, b"\x33" * 32)


def prevote(height: int, round_: int, block: bytes | None = A) -> Vote:
    return Vote(VoteType.PREVOTE, height, round_, block)


def precommit(height: int, round_: int, block: bytes | None = A) -> Vote:
    return Vote(VoteType.PRECOMMIT, height, round_, block)


def opened(path: Path, head: int = 0, new: bool = False) -> FileSigner:
    return create_or_open(path, KEY, CONTEXT, head, validators=4, new_signer=new)


@pytest.mark.parametrize(
    ("first", "then", "allowed"),
    [
        (proposal(5, 0), prevote(5, 0), True),
        (prevote(5, 0), precommit(5, 0), True),
        (precommit(5, 0), proposal(5, 1), True),
        (precommit(5, 3), proposal(6, 0), True),
        (prevote(5, 0), prevote(5, 0), True),
        (prevote(5, 0), prevote(5, 0, B), False),
        (prevote(5, 0), prevote(5, 0, None), False),
        (proposal(5, 0), proposal(5, 0, B), False),
        (precommit(5, 0), prevote(5, 0), False),
        (prevote(5, 0), proposal(5, 0), False),
        (prevote(5, 1), precommit(5, 0), False),
        (prevote(5, 0), precommit(4, 9), False),
    ],
)
def test_steps_only_go_up(tmp_path: Path, first: Signable, then: Signable, allowed: bool) -> None:
    for reopen in (False, True):
        path = tmp_path / f"signer{reopen}"
        signer = opened(path)
        signer.sign(first, 7)
        if reopen:
            signer.close()
            signer = opened(path, head=4)
        if allowed:
            assert signer_of(CONTEXT, signer.sign(then, 8)) == address_of(KEY)
        else:
            with pytest.raises(RefusedToSign):
                signer.sign(then, 8)
        signer.close()


def test_the_same_bytes_give_the_same_signature_after_a_restart(tmp_path: Path) -> None:
    signer = opened(tmp_path / "s")
    signed = signer.sign(prevote(3, 1), 9)
    signer.close()
    again = opened(tmp_path / "s", head=2)
    assert again.sign(prevote(3, 1), 12) == signed
    assert again.state.log_sequence == 9


def test_the_signature_is_on_disk_before_it_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = opened(tmp_path / "s")

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="space"):
        signer.sign(prevote(3, 1), 9)


def test_two_processes_cannot_share_a_signer(tmp_path: Path) -> None:
    signer = opened(tmp_path / "s")
    with pytest.raises(SignerLocked):
        opened(tmp_path / "s")
    signer.close()
    opened(tmp_path / "s").close()


def test_a_torn_write_of_one_slot_leaves_the_step_before(tmp_path: Path) -> None:
    path = tmp_path / "s"
    signer = opened(path)
    signer.sign(prevote(1, 0), 1)
    signer.sign(precommit(1, 0), 2)
    newest = signer._counter % 2
    signer.close()
    data = bytearray(path.read_bytes())
    whole = bytes(data)
    for torn_bytes in (0, 1, 16, 100, SLOT_BYTES - 1):
        begin = newest * SLOT_BYTES
        data[begin : begin + SLOT_BYTES] = whole[begin : begin + torn_bytes].ljust(SLOT_BYTES, b"\xff")
        path.write_bytes(data)
        signer = opened(path)
        assert signer.state.step in (1, 2)
        with pytest.raises(RefusedToSign):
            signer.sign(prevote(1, 0, B), 3)
        signer.close()


def test_every_flipped_byte_leaves_a_whole_slot(tmp_path: Path) -> None:
    path = tmp_path / "s"
    signer = opened(path)
    signer.sign(prevote(1, 0), 1)
    signer.close()
    whole = path.read_bytes()
    for position in [*range(250), *range(SLOT_BYTES, SLOT_BYTES + 250)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        signer = opened(path)
        assert signer.state.height in (0, 1)
        signer.close()


def test_a_fresh_signer_at_head_0_signs_at_once_and_also_after_a_crash_while_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(bytes(2 * SLOT_BYTES))
    opened(tmp_path / "s").sign(prevote(1, 0), 1)


def test_a_missing_signer_on_a_running_chain_refuses_without_new_signer(tmp_path: Path) -> None:
    with pytest.raises(SignerMissing, match="--new-signer"):
        opened(tmp_path / "s", head=10)
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").write_bytes(b"")
    with pytest.raises(SignerMissing):
        opened(tmp_path / "s", head=10)
    (tmp_path / "s").write_bytes(b"\xff" * 2 * SLOT_BYTES)
    with pytest.raises(SignerMissing):
        opened(tmp_path / "s", head=0)


def test_a_new_signer_is_silent_until_2n_heights_have_passed_without_its_key(tmp_path: Path) -> None:
    signer = opened(tmp_path / "s", head=10, new=True)
    with pytest.raises(RefusedToSign, match="silent until 18"):
        signer.sign(prevote(18, 0), 1)
    signer.saw_own_key(12, 4)
    signer.close()
    signer = opened(tmp_path / "s", head=12)
    with pytest.raises(RefusedToSign, match="silent until 20"):
        signer.sign(prevote(20, 0), 1)
    signer.sign(prevote(21, 0), 1)
    signer.saw_own_key(21, 4)
    signer.sign(precommit(21, 0), 1)


def test_after_a_lost_log_the_height_is_never_signed_again(tmp_path: Path) -> None:
    signer = opened(tmp_path / "s")
    signed = signer.sign(prevote(7, 0), 1)
    signer.abandon_height()
    signer.close()
    signer = opened(tmp_path / "s", head=6)
    assert signer.sign(prevote(7, 0), 2) == signed
    with pytest.raises(RefusedToSign, match="lost"):
        signer.sign(precommit(7, 5), 2)
    signer.sign(proposal(8, 0), 2)
