"""The beginning of a chain: its specification as a file, and block 0 as a pure function of it."""
