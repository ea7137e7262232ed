"""Peer-to-peer: sealed connections, prioritised channels, gossip and block sync, behind `p2p.network.Network`.

This package moves bytes between authenticated nodes. It refuses to know what a vote, a block or a transaction means:
whatever has to be judged is judged by the `Host` that the node hands to it.
"""
