"""What peers may ask of a node is answered without large reads in the event loop."""

from pathlib import Path

from cluster_of_nodes import make_cluster

from chain.ledger import Ledger
from chain.mempool import Mempool
from node.host import NodeHost
from node.messages import Decoder


def test_announced_hashes_are_looked_up_in_the_index_alone(tmp_path: Path, monkeypatch) -> None:
    """A peer may announce hundreds of old transactions at once: none of their blocks is read for it."""
    (node,) = make_cluster(tmp_path, 1)
    ledger = Ledger.open(node.kv, node.spec)
    host = NodeHost(ledger, Mempool(ledger), Decoder(ledger.sign_context))
    monkeypatch.setattr(ledger, "block", None)
    monkeypatch.setattr(ledger, "find_transaction", None)
    assert not host.has_tx(b"\x01" * 32)
