"""A devnet in memory: the real specification and keys of N validators, and blocks that they decide."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from chain.builder import BuildRequest
from chain.kv import KV, MemoryKV
from chain.ledger import Committed, Ledger
from chain.mempool import Mempool
from consensus.bft.certificate import commit_certificate
from consensus.bft.proposer import ProposerSchedule
from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS, ValidatorKeys, devnet_validator
from genesis.spec import devnet_spec, load_spec
from primitives import bls
from primitives.block import Block, decode_block
from primitives.genesis import GenesisSpec
from primitives.keys import sign
from primitives.transaction import Transaction, sign_transaction
from primitives.vote import CommitCertificate, Vote, VoteType, encode_last_commit, sign_bytes

GENESIS_TIME_MS = 1_700_000_000_000
GWEI = 10**9


@dataclass
class Devnet:
    """One ledger, and everybody's keys."""

    spec: GenesisSpec
    kv: KV
    ledger: Ledger
    mempool: Mempool
    keys: dict[bytes, ValidatorKeys]
    """By operator address."""
    nonces: dict[bytes, int] = field(default_factory=dict)

    def proposer(self, round_: int = 0) -> bytes:
        height = self.ledger.head.number + 1
        seed_mix, first = self.ledger.proposer_seed(height)
        return ProposerSchedule(self.ledger.validator_set(height), seed_mix, first).proposer(height, round_)

    def request(
        self, round_: int = 0, time_ms: int | None = None, should_stop: Callable[[], bool] = lambda: False
    ) -> BuildRequest:
        """What the proposer of the next height would ask for."""
        head, proposer = self.ledger.head, self.proposer(round_)
        message = bls.beacon_message(self.ledger.genesis_hash, head.header.mix_hash, head.number + 1)
        return BuildRequest(
            round=round_,
            time_ms=head.sidecar.time_ms + 1_000 if time_ms is None else time_ms,
            proposer=proposer,
            beacon_proof=bls.sign(self.keys[proposer].beacon, message),
            last_commit=encode_last_commit(self.ledger.certificate(head.number)),
            should_stop=should_stop,
        )

    def certificate(self, block: Block, signers: Iterable[int] | None = None) -> CommitCertificate:
        """Precommits of these members of the set (all by default) for the block."""
        members = self.ledger.validator_set(block.number)
        digest = sign_bytes(self.ledger.sign_context, Vote(VoteType.PRECOMMIT, block.number, 0, block.hash))
        signatures = {
            index: sign(digest, self.keys[members.validators[index].operator].consensus)
            for index in (range(len(members)) if signers is None else signers)
        }
        return commit_certificate(members, block.number, 0, block.hash, signatures)

    def advance(self, blocks: int = 1, round_: int = 0) -> Committed:
        """Build, check as a peer would (from the wire), and commit."""
        for _ in range(blocks):
            block = decode_block(self.ledger.build(self.request(round_), self.mempool).wire_body)
            committed = self.ledger.commit(block, self.certificate(block))
        return committed

    def transfer(
        self,
        account: int,
        to: bytes = ACCOUNT_ADDRESSES[9],
        value: int = 1,
        nonce: int | None = None,
        tip: int = GWEI,
        max_fee: int = 3 * GWEI,
        gas: int = 21_000,
        data: bytes = b"",
    ) -> Transaction:
        """A signed transfer of one of the ten accounts, at its next nonce by default."""
        sender = ACCOUNT_ADDRESSES[account]
        return sign_transaction(
            ACCOUNT_KEYS[account],
            chain_id=self.spec.params.chain_id,
            nonce=self.mempool.next_nonce(sender) if nonce is None else nonce,
            gas=gas,
            to=to,
            value=value,
            data=data,
            max_fee_per_gas=max_fee,
            max_priority_fee_per_gas=tip,
        )

    def send(self, account: int, **fields: object) -> Transaction:
        """The same, given to the mempool."""
        return self.mempool.add(self.transfer(account, **fields).raw, now_ms=0)  # type: ignore[arg-type]


def make_devnet(validators: int = 4, kv: KV | None = None, **params: int) -> Devnet:
    spec = load_spec(devnet_spec(validators, GENESIS_TIME_MS, params=params))
    kv = kv if kv is not None else MemoryKV()
    ledger = Ledger.open(kv, spec)
    keys = {own.operator_address: own for own in map(devnet_validator, range(validators))}
    return Devnet(spec, kv, ledger, Mempool(ledger), keys)


@pytest.fixture
def devnet() -> Devnet:
    """Four validators at block 0."""
    return make_devnet()


@pytest.fixture(scope="session")
def new_devnet() -> Callable[..., Devnet]:
    """make_devnet(validators, kv, **params)."""
    return make_devnet
