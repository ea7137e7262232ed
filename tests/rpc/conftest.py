"""A real ledger and mempool in memory, a one-validator chain that grows on demand, and the real server on loopback."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import trio

from chain.builder import BuildRequest
from chain.kv import MemoryKV
from chain.ledger import Committed, Ledger
from chain.mempool import Mempool
from consensus.bft.certificate import commit_certificate
from genesis.keys import ACCOUNT_KEYS, devnet_validator
from genesis.spec import devnet_spec, load_spec
from primitives import bls
from primitives.block import EMPTY_LAST_COMMIT
from primitives.keys import address_of, sign
from primitives.transaction import Transaction, sign_transaction
from primitives.vote import Vote, VoteType, encode_last_commit, sign_bytes
from rpc.context import Context, SyncStatus
from rpc.dispatch import Dispatcher
from rpc.events import Hub
from rpc.filters import Filters
from rpc.registry import registry
from rpc.server import ServerConfig, serve
from vm.system import views

GENESIS_TIME_MS = 1_700_000_000_000


@dataclass
class Host:
    """The backend of these tests: what node hands to rpc, without a network."""

    ledger: Ledger
    mempool: Mempool
    hub: Hub = field(default_factory=Hub)
    filters: Filters = field(default_factory=Filters)
    client_version: str = "Labora/test"
    clock_ms: int = GENESIS_TIME_MS
    nonces: dict[bytes, int] = field(default_factory=dict)
    fetched: dict[bytes, str | None] = field(default_factory=dict)

    def submit(self, raw: bytes) -> Transaction:
        transaction = self.mempool.add(raw, self.clock_ms)
        self.hub.pending(transaction)
        self.filters.pending(transaction)
        return transaction

    def peer_count(self) -> int:
        return 0

    def syncing(self) -> SyncStatus | None:
        return None

    def health(self) -> dict[str, Any]:
        return {"status": "ok", "height": self.ledger.head.number}

    def soft_answers(self, task: bytes, start: int) -> list[dict[str, Any]]:
        return [{"operator": "0x" + task[:20].hex(), "slot": 0, "first": start, "tokens": [1, 2]}]

    def local_models(self) -> list[dict[str, Any]]:
        return [{"model": "0x" + model.hex(), "state": "fetching"} for model in self.fetched]

    def fetch_model(self, model: bytes, peer: str | None) -> None:
        self.fetched[model] = peer

    async def remove_model(self, model: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return len(str(self.fetched.pop(model)))

    def now_ms(self) -> int:
        return self.clock_ms

    def produce(self) -> Committed:
        """Commit the next block, signed by the only validator."""
        keys = devnet_validator(0)
        head = self.ledger.head
        certificate = self.ledger.certificate(head.number)
        message = bls.beacon_message(self.ledger.genesis_hash, views.mix(self.ledger.reader()), head.number + 1)
        request = BuildRequest(
            round=0,
            time_ms=head.sidecar.time_ms + 1_000,
            proposer=keys.operator_address,
            beacon_proof=bls.sign(keys.beacon, message),
            last_commit=EMPTY_LAST_COMMIT if certificate is None else encode_last_commit(certificate),
            should_stop=lambda: False,
        )
        block = self.ledger.build(request, self.mempool)
        self.ledger.check(block)
        vote = Vote(VoteType.PRECOMMIT, block.number, 0, block.hash)
        signature = sign(sign_bytes(self.ledger.sign_context, vote), keys.consensus)
        members = self.ledger.validator_set(block.number)
        certificate = commit_certificate(members, block.number, 0, block.hash, {0: signature})
        self.clock_ms += 1_000
        committed = self.ledger.commit(block, certificate)
        self.hub.committed(committed)
        return committed

    def send(self, key: bytes = ACCOUNT_KEYS[0], **fields: Any) -> Transaction:
        """Sign and submit a transaction at the account's next nonce."""
        values = {"to": b"\x11" * 20, "gas": 21_000, "value": 1, "max_fee_per_gas": 10**10}
        values |= {"max_priority_fee_per_gas": 10**9, "chain_id": self.ledger.params.chain_id, **fields}
        values.setdefault("nonce", self.mempool.next_nonce(address_of(key)))
        return self.submit(sign_transaction(key, **values).raw)

    @property
    def context(self) -> Context:
        return Context(self, self.filters, registry().namespaces)


@pytest.fixture
def host() -> Host:
    ledger = Ledger.open(MemoryKV(), load_spec(devnet_spec(1, GENESIS_TIME_MS)))
    mempool = Mempool(ledger)
    ledger.on_commit.append(mempool.committed)
    return Host(ledger, mempool)


@pytest.fixture
def ask(host: Host) -> Callable[..., Any]:
    """Call a method through the dispatcher; the whole response without id and version."""
    dispatcher, context = Dispatcher(registry()), host.context

    def call(method: str, *params: Any) -> Any:
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = orjson.loads(trio.run(dispatcher.answer, body, context))
        return answer["result"] if "result" in answer else answer["error"]

    return call


@asynccontextmanager
async def serving(host: Host, **settings: Any) -> AsyncIterator[int]:
    """The real server on a free loopback port."""

    def page(path: str) -> tuple[int, bytes] | None:
        return (200, b"{}") if path == "/health" else None

    async with trio.open_nursery() as nursery:
        config = ServerConfig(port=0, **settings)
        port = await nursery.start(serve, config, Dispatcher(registry()), host.hub, host.context, page)
        yield port
        nursery.cancel_scope.cancel()
