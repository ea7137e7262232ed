"""Claim: what a word of storage costs a block, read and written: the amounts READ and WRITE of vm/system/gas.py.

    python bench/storage_words.py [--words 200000] [--reads 3000]

One account's storage of so many words in a LevelDB of its own. Read cold (no node of its path decoded but the upper
levels), read again in the next block (nodes decoded), read again in the same block; written, the new root included.
CPU time; 3 gas are one microsecond.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import harness

sys.path.insert(0, str(harness.ROOT))

from chain.kv import LevelKV
from chain.store import NODE, StateDB
from primitives import rlp
from primitives.hashing import keccak
from vm import mpt
from vm.accounts import Accounts
from vm.system import gas
from vm.trie import Nodes

GAS_A_MICROSECOND = 3
ACCOUNT = b"\x0a" * 20
BATCH = 5_000
WRITTEN = (100, 1_000)


def filled(folder: str, slots: Sequence[int], rng: random.Random) -> tuple[StateDB, bytes]:
    """A state with one account that holds a value in every slot; opened anew, so that nothing of it is in memory."""
    nodes: dict[bytes, bytes] = {}
    values = ((mpt.storage_key(slot), rlp.encode(rlp.from_uint(rng.getrandbits(200) + 1))) for slot in slots)
    account = mpt.encode_account(1, 0, mpt.build(values, nodes), keccak(b""))
    root = mpt.build([(keccak(ACCOUNT), account)], nodes)
    kv, items = LevelKV(Path(folder) / "db"), list(nodes.items())
    for start in range(0, len(items), BATCH):
        kv.write([(NODE + digest, data) for digest, data in items[start : start + BATCH]], sync=False)
    kv.close()
    return StateDB(LevelKV(Path(folder) / "db")), root


def microseconds(state: Accounts, slots: Sequence[int]) -> float:
    """Of a read."""
    began = time.process_time()
    for slot in slots:
        state.get_storage(ACCOUNT, slot)
    return 1e6 * (time.process_time() - began) / len(slots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=200_000)
    parser.add_argument("--reads", type=int, default=3_000)
    asked = parser.parse_args()
    harness.header(__doc__.splitlines()[0])
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        slots = [rng.getrandbits(256) for _ in range(asked.words)]
        db, root = filled(folder, slots, rng)
        nodes = Nodes(db)
        microseconds(Accounts(nodes, {}, root), rng.sample(slots, asked.reads))  # the upper levels
        picked = rng.sample(slots, asked.reads)
        print(f"charged: a read {gas.READ / GAS_A_MICROSECOND:.0f} us, a write {gas.WRITE / GAS_A_MICROSECOND:.0f} us")
        state = Accounts(nodes, {}, root)
        print(f"read, its last nodes out of LevelDB      {microseconds(state, picked):7.1f} us")
        state = Accounts(nodes, {}, root)
        print(f"read, its nodes used in the last blocks  {microseconds(state, picked):7.1f} us")
        print(f"read again in the same block             {microseconds(state, picked):7.1f} us")
        for count in WRITTEN:
            written: dict[bytes, bytes] = {}
            state = Accounts(nodes, written, root)
            microseconds(state, picked[:count])
            began = time.process_time()
            for slot in picked[:count]:
                state.set_storage(ACCOUNT, slot, 7)
            state.persist()
            each = 1e6 * (time.process_time() - began) / count
            made = len(written) / count
            print(f"written, one of {count:>5} in a block          {each:7.1f} us, {made:.1f} nodes a word")


if __name__ == "__main__":
    main()
