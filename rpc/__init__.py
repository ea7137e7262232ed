"""JSON-RPC over HTTP and WebSocket: how wallets, dApps and tools talk to a node."""
