"""Claim: settled tasks a second on the four-validator devnet with the shipped model, and how long each waits for it.

    python bench/settled_tasks.py [--seconds 60] [--rates 1 2 4 8] [--tokens 16]

Posts of one account go to one node at each rate in turn, spread over each second; then as long again until what was
posted has settled. A task's times run from eth_sendRawTransaction to the moment when a poll of another node first sees
the block in which it is agreed, settled. Goals at blocks of 1 s: agreed 8 s, settled 12 s (medians).
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import harness

sys.path.insert(0, str(harness.ROOT))

from primitives.address import MARKET
from primitives.keys import address_of
from primitives.merkle import pack_tokens
from primitives.transaction import sign_transaction
from vm.system import abi

PROMPT_TOKENS = 16
DEADLINE_BLOCKS = 60
TEMPERATURE_Q16 = 1 << 16
POST_GAS = 500_000
DRAIN_SECONDS = 60
POLL_SECONDS = 0.02
BLOCK_SECONDS = 1.0


@dataclass
class Watch:
    """What the blocks say of the tasks of one account: the moment at which each step was first seen."""

    net: harness.Devnet
    poster: bytes
    height: int
    posted: dict[str, str] = field(default_factory=dict)
    """Task -> hash of the transaction that posted it."""
    agreed: dict[str, float] = field(default_factory=dict)
    settled: dict[str, float] = field(default_factory=dict)
    refunded: int = 0

    def poll(self) -> None:
        """Read the logs of new blocks."""
        head, now = int(harness.rpc(self.net.rpc[-1], "eth_blockNumber"), 16), time.monotonic()
        if head == self.height:
            return
        asked = {"fromBlock": hex(self.height + 1), "toBlock": hex(head), "address": "0x" + MARKET.hex()}
        for log in harness.rpc(self.net.rpc[-1], "eth_getLogs", asked):
            self._read(log, now)
        self.height = head

    def _read(self, log: dict[str, Any], now: float) -> None:
        topic, task = log["topics"][0], log["topics"][1]
        if topic == "0x" + abi.TASK_POSTED.topic.hex():
            if log["topics"][2][-40:] == self.poster.hex():
                self.posted[task] = log["transactionHash"]
        elif task not in self.posted:
            return
        elif topic == "0x" + abi.TASK_AGREED.topic.hex():
            self.agreed[task] = now
        elif topic == "0x" + abi.TASK_SETTLED.topic.hex():
            self.settled[task] = now
        elif topic == "0x" + abi.TASK_REFUNDED.topic.hex():
            self.refunded += 1


class Asker:
    """An account that posts the same kind of task again and again."""

    def __init__(self, net: harness.Devnet, tokens: int, rng: random.Random) -> None:
        self.net, self.tokens, self.rng = net, tokens, rng
        self.key = bytes.fromhex(net.accounts[1]["privateKey"].removeprefix("0x"))
        self.address = address_of(self.key)
        found = harness.rpc(net.rpc[0], "labora_models")[0]
        self.model, self.vocabulary = bytes.fromhex(found["model"].removeprefix("0x")), found["vocabulary"]
        data = abi.QUOTE.encode_call(0, self.model, PROMPT_TOKENS, tokens, 2, 0, 0, 0)
        quoted = harness.rpc(net.rpc[0], "eth_call", {"to": "0x" + MARKET.hex(), "data": "0x" + data.hex()}, "latest")
        self.escrow = 4 * abi.QUOTE.decode_result(bytes.fromhex(quoted.removeprefix("0x")))[0]  # for prices that rise
        self.nonce = int(harness.rpc(net.rpc[0], "eth_getTransactionCount", "0x" + self.address.hex(), "pending"), 16)

    def post(self) -> str:
        """Send one. The transaction's hash."""
        prompt = pack_tokens([self.rng.randrange(self.vocabulary) for _ in range(PROMPT_TOKENS)])
        data = abi.POST.encode_call(
            0, self.model, prompt, self.tokens, TEMPERATURE_Q16, 0, 2, 0, 0, DEADLINE_BLOCKS, 0
        )
        raw = sign_transaction(
            self.key, chain_id=self.net.chain_id, nonce=self.nonce, gas=POST_GAS, to=MARKET, value=self.escrow,
            max_fee_per_gas=10**12, max_priority_fee_per_gas=10**9, data=data,
        )  # fmt: skip
        self.nonce += 1
        harness.rpc(self.net.rpc[0], "eth_sendRawTransaction", "0x" + raw.raw.hex())
        return "0x" + raw.hash.hex()


def at(net: harness.Devnet, asker: Asker, rate: float, seconds: float) -> str:
    """One row: posts at a rate for so long, until they have settled."""
    sent: dict[str, float] = {}
    watch = Watch(net, asker.address, int(harness.rpc(net.rpc[-1], "eth_blockNumber"), 16))
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds or (
        len(watch.settled) + watch.refunded < len(sent) and now < begun + seconds + DRAIN_SECONDS
    ):
        if now < begun + seconds and len(sent) < (now - begun) * rate:
            sent[asker.post()] = time.monotonic()
            continue
        watch.poll()
        time.sleep(POLL_SECONDS)
    waits = {
        name: [moment - sent[watch.posted[task]] for task, moment in steps.items()]
        for name, steps in (("agreed", watch.agreed), ("settled", watch.settled))
    }
    if not watch.settled:
        return f"{rate:g} a second: none of {len(sent)} settled"
    whole = max(watch.settled.values()) - min(watch.settled.values()) + BLOCK_SECONDS
    medians = ", ".join(f"{name} p50 {statistics.median(found):.1f} s" for name, found in waits.items() if found)
    return (
        f"{rate:>4g} a second: {len(watch.settled)} of {len(sent)} settled, {watch.refunded} refunded; "
        f"{len(watch.settled) / whole:.2f} settled a second; {medians}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tokens", type=int, default=16)
    asked = parser.parse_args()
    harness.header(__doc__.splitlines()[0])
    with harness.devnet() as net:
        asker = Asker(net, asked.tokens, random.Random(1))
        for rate in asked.rates:
            print(at(net, asker, rate, asked.seconds), flush=True)


if __name__ == "__main__":
    main()
