"""Claim: start-up times of the devnet and its commands, and resident memory of each process.

    python bench/resources.py [RUNS]
"""

import subprocess
import sys
import time

import harness
import psutil


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    harness.header(__doc__.splitlines()[0])
    helps = []
    for _ in range(10):
        begun = time.monotonic()
        subprocess.run([*harness.LABORA, "--help"], stdout=subprocess.DEVNULL, check=True, env=harness.ENVIRONMENT)
        helps.append((time.monotonic() - begun) * 1000)
    harness.row("labora --help", helps, "ms")
    firsts, settled, nodes, workers, launchers = [], [], [], [], []
    for _ in range(runs):
        begun = time.monotonic()
        with harness.devnet() as net:
            firsts.append(net.first_block_seconds * 1000)
            harness.post_task(net, "The sea", 32)
            settled.append((time.monotonic() - begun) * 1000)
            launchers.append(psutil.Process(net.process.pid).memory_info().rss / 2**20)
            for validator in net.validators:
                process = psutil.Process(validator["pid"])
                nodes.append(process.memory_info().rss / 2**20)
                workers += [child.memory_info().rss / 2**20 for child in process.children(recursive=True)]
    harness.row("empty folder to first final block", firsts, "ms")
    harness.row("empty folder to first settled task", settled, "ms")
    harness.row("resident memory, node process", nodes, "MiB")
    harness.row("resident memory, model worker", workers, "MiB")
    harness.row("resident memory, launcher", launchers, "MiB")


if __name__ == "__main__":
    main()
