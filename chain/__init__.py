"""The ledger of one node: storage, block validity, block building, pending transactions. Synchronous; no clock."""
