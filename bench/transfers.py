"""Claim: transfers a second, end to end, of the four-validator devnet; the same through anvil in the same run.

    python bench/transfers.py [COUNT] [ANVIL]     ANVIL: path of an anvil binary, else only the devnet is measured
"""

import json
import subprocess
import sys
import time
import urllib.request

import harness

from primitives.transaction import sign_transaction

BATCH = 50
SENDERS = 8


def signed(accounts: list[dict[str, str]], chain_id: int, count: int) -> list[list[str]]:
    """Raw transfers, by sender."""
    by_sender = []
    for account in accounts[:SENDERS]:
        key = bytes.fromhex(account["privateKey"].removeprefix("0x"))
        by_sender.append(
            [
                "0x" + sign_transaction(
                    key, chain_id=chain_id, nonce=nonce, gas=21_000, to=b"\x22" * 20, value=1,
                    max_fee_per_gas=10**12, max_priority_fee_per_gas=10**9,
                ).raw.hex()
                for nonce in range(count // SENDERS)
            ]
        )  # fmt: skip
    return by_sender


def flood(url: str, by_sender: list[list[str]]) -> float:
    """Seconds from the first send until every sender's last transfer has a receipt."""
    begun = time.monotonic()
    last: dict[str, str] = {}
    for at in range(0, len(by_sender[0]), BATCH):
        for raws in by_sender:
            calls = [
                {"jsonrpc": "2.0", "id": i, "method": "eth_sendRawTransaction", "params": [raw]}
                for i, raw in enumerate(raws[at : at + BATCH])
            ]
            request = urllib.request.Request(url, json.dumps(calls).encode(), {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                answers = json.load(response)
            refused = [answer for answer in answers if "result" not in answer]
            if refused:
                raise SystemExit(f"refused: {refused[0]}")
            last[raws[0]] = answers[-1]["result"]
    for transaction in last.values():  # each sender's: the order between senders is the builder's
        while harness.rpc(url, "eth_getTransactionReceipt", transaction) is None:
            time.sleep(0.02)
    return time.monotonic() - begun


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    harness.header(__doc__.splitlines()[0])
    with harness.devnet() as net:
        seconds = flood(net.rpc[0], signed(net.accounts, net.chain_id, count))
        ours = count / seconds
        print(f"labora devnet, 4 validators, 1 s blocks: {ours:.0f} transfers/s ({seconds:.1f} s)", flush=True)
    if len(sys.argv) > 2:
        port = "18999"
        anvil = subprocess.Popen([sys.argv[2], "--port", port, "--block-time", "1", "--silent"])
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(200):
                try:
                    harness.rpc(url, "eth_chainId")
                    break
                except OSError:
                    time.sleep(0.05)
            seconds = flood(url, signed(net.accounts, 31337, count))
            theirs = count / seconds
            print(f"anvil, one process, 1 s blocks: {theirs:.0f} transfers/s; ratio {ours / theirs:.2f}")
        finally:
            anvil.terminate()


if __name__ == "__main__":
    main()
