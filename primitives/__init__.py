"""Frozen values that every room shares: hashes, addresses, headers, blocks, transactions, votes, tasks, parameters.

Owns byte formats and nothing else: no disk, no sockets, no clock, no randomness.
"""

import os

# eth-hash would otherwise prefer pycryptodome, seven times slower; this must stand before any `eth` import.
os.environ["ETH_HASH_BACKEND"] = "pysha3"
