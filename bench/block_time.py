"""Claim: block time and finality of the four-validator devnet, at idle and under 100 transfers a second.

Finality is what a user waits: from eth_sendRawTransaction at one node to the receipt at another.
    python bench/block_time.py [SECONDS]
"""

import sys
import time

import harness

from primitives.transaction import sign_transaction

RATE = 100


def block_times(url: str, seconds: float) -> list[float]:
    """Milliseconds between new heads, as seen by polling one node."""
    seen, times, end = harness.rpc(url, "eth_blockNumber"), [], time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        head = harness.rpc(url, "eth_blockNumber")
        if head != seen:
            now = time.monotonic()
            times += [] if last is None else [(now - last) * 1000 / (int(head, 16) - int(seen, 16))]
            seen, last = head, now
        time.sleep(0.01)
    return times


def finality(net: harness.Devnet, seconds: float, rate: int) -> tuple[list[float], list[float]]:
    """(milliseconds from send to receipt elsewhere, sampled; block times) under `rate` transfers a second."""
    key = bytes.fromhex(net.accounts[1]["privateKey"].removeprefix("0x"))
    nonce = int(harness.rpc(net.rpc[0], "eth_getTransactionCount", net.accounts[1]["address"], "pending"), 16)
    waits, times, watched = [], [], None
    begun = time.monotonic()
    head, changed, sent = harness.rpc(net.rpc[-1], "eth_blockNumber"), None, 0
    while (now := time.monotonic()) < begun + seconds:
        if sent < (now - begun) * rate:
            raw = sign_transaction(
                key, chain_id=net.chain_id, nonce=nonce + sent, gas=21_000, to=b"\x11" * 20, value=1,
                max_fee_per_gas=10**11, max_priority_fee_per_gas=10**9,
            )  # fmt: skip
            harness.rpc(net.rpc[0], "eth_sendRawTransaction", "0x" + raw.raw.hex())
            sent += 1
            if watched is None:
                watched = ("0x" + raw.hash.hex(), time.monotonic())
            continue
        found = harness.rpc(net.rpc[-1], "eth_blockNumber")
        if found != head:
            if changed is not None:
                times.append((now - changed) * 1000 / (int(found, 16) - int(head, 16)))
            head, changed = found, now
        if watched is not None and harness.rpc(net.rpc[-1], "eth_getTransactionReceipt", watched[0]) is not None:
            waits.append((time.monotonic() - watched[1]) * 1000)
            watched = None
        time.sleep(0.002)
    return waits, times


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    harness.header(__doc__.splitlines()[0])
    with harness.devnet() as net:
        harness.row("block time, idle", block_times(net.rpc[0], seconds), "ms")
        waits, _ = finality(net, seconds, 1)
        harness.row("send to receipt at another node, 1 tx/s", waits, "ms")
        waits, times = finality(net, seconds, RATE)
        harness.row(f"block time, {RATE} transfers/s", times, "ms")
        harness.row(f"send to receipt, {RATE} transfers/s", waits, "ms")


if __name__ == "__main__":
    main()
