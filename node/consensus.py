"""The consensus service: gives the agreement core its inputs and carries out its outputs. The shell, nothing more.

One task owns the core and the write side of the ledger; everybody else puts things into its inbox. The order that
safety rests on: append the input to the log, sync the log, let the signer sync its step, then send. Only a signature
needs the sync: whatever else follows from an input can be lost with it and is done again. Knows keys, disk, network
and clock, so that the core need not. Decides nothing about blocks or votes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from chain.builder import BuildRequest
from chain.kv import KVFull
from chain.ledger import Committed, Ledger, NotNext
from chain.mempool import Mempool
from chain.validation import InvalidBlock, is_whole
from consensus.bft.core import Core
from consensus.bft.inputs import (
    BlockBuilt,
    BlockChecked,
    CertificateReceived,
    Input,
    ProposalReceived,
    StartHeight,
    StatusReceived,
    TimeoutElapsed,
    VoteReceived,
    encode_input,
)
from consensus.bft.outputs import (
    Broadcast,
    BuildBlock,
    CheckBlock,
    Decide,
    Dropped,
    Evidence,
    FetchBlock,
    Halt,
    Output,
    Redeliver,
    Resend,
    ScheduleTimeout,
    SendCommit,
    SendStatus,
)
from consensus.bft.proposer import ProposerSchedule
from consensus.bft.timing import Timing
from node.clock import ClockWatch, now_ms
from node.exits import DISK, HALTED, Fatal
from node.inbox import Inbox
from node.messages import BadMessage, Decoder, OtherHeight
from node.replay import RecordKind, Recovered
from node.signer import RefusedToSign, Signer
from node.wal import WriteAheadLog
from p2p.network import Network
from p2p.peer import TokenBucket
from primitives import bls
from primitives.block import Block, MalformedBlock, decode_block
from primitives.params import ChainParams
from primitives.validators import indexes_of
from primitives.vote import (
    NIL_ROUND,
    CommitCertificate,
    InvalidMessage,
    Proposal,
    Signed,
    SignedProposal,
    Status,
    Vote,
    decode_message,
    encode_last_commit,
    encode_message,
)

BLOCKS_MAX = 48
"""Bodies of the current height at hand, and bodies being fetched: above it those go that the core has let go of. It
names at most two a round, of the rounds that it keeps, and the certified ones."""
SYNCED_BLOCKS_MAX = 64
"""Decided blocks ahead of the core that wait for their turn."""
COMMIT_RESEND_SECONDS = 1.0
COMMITS_RESENT_MAX = 16
"""In so many seconds a peer is sent the commit of one height once, and of so many heights; of so many peers it is known
when that was. Who is further behind asks for ranges."""
LARGE_MESSAGE_BYTES = 1024
LARGE_PER_SECOND, LARGE_BURST = 10, 40
"""Large messages are certificates of many signatures, some milliseconds of checking each unless its votes came before,
and whoever has seen 128 votes can make any number of good ones. Honest nodes send a few every rebroadcast_ms."""
PEERS_MAX = 64
CHECKS_AT_ONCE = 2

log = structlog.get_logger("consensus")


@dataclass(frozen=True, slots=True)
class Payload:
    """A consensus message as it came from a peer, at received_ms of the wall clock."""

    peer: str
    data: bytes
    received_ms: int


@dataclass(frozen=True, slots=True)
class BeginHeight:
    """The pace allows this height."""

    height: int


@dataclass(frozen=True, slots=True)
class BlockArrived:
    """A body that was asked for, whose hash is right."""

    block: Block


@dataclass(frozen=True, slots=True)
class OwnBlock:
    """A block that this node built for (height, round)."""

    height: int
    round: int
    block: Block


@dataclass(frozen=True, slots=True)
class DecidedBlock:
    """Body and commit certificate from a peer that is ahead; not verified yet."""

    peer: str
    block: Block
    certificate: CommitCertificate


Local = Input | BeginHeight | BlockArrived | OwnBlock | DecidedBlock


@dataclass
class Figures:
    """What there is to see from outside."""

    blocks_committed: int = 0
    finality_ms: int = 0
    """From the block's own time to its commit here."""
    evidence: int = 0
    dropped: int = 0
    refused_signatures: int = 0
    rounds_over_zero: int = 0


def timing_of(params: ChainParams) -> Timing:
    """The core's timeouts from genesis."""
    return Timing(
        propose_ms=params.timeout_propose_ms, propose_growth_ms=params.timeout_propose_delta_ms,
        vote_ms=params.timeout_vote_ms, vote_growth_ms=params.timeout_vote_delta_ms,
        rebroadcast_ms=params.rebroadcast_ms, cap_ms=params.timeout_cap_ms,
        precision_ms=params.timely_precision_ms, message_delay_ms=params.timely_delay_ms,
    )  # fmt: skip


class Consensus:
    """The service. `run` owns everything here; other tasks use `offer_decided` and the figures."""

    def __init__(
        self,
        ledger: Ledger,
        mempool: Mempool,
        network: Network,
        wal: WriteAheadLog,
        core: Core,
        recovered: Recovered,
        signer: Signer | None,
        beacon_key: bytes | None,
        dump_folder: Path,
    ) -> None:
        self.ledger = ledger
        self.core = core
        self.figures = Figures()
        self.clock = ClockWatch()
        self.on_commit: list[Callable[[Committed], None]] = []
        """Called in the event loop after each commit."""
        self.started = trio.Event()
        """Set at the first StartHeight: heavier services wait for it."""
        self.decoder = Decoder(ledger.sign_context)
        self._mempool = mempool
        self._network = network
        self._wal = wal
        self._recovered = recovered
        self._signer = signer
        self._beacon_key = beacon_key
        self._dump_folder = dump_folder
        self._inbox: Inbox[Local, Payload] = Inbox()
        self._heavy = trio.CapacityLimiter(CHECKS_AT_ONCE)
        self._urgent = trio.CapacityLimiter(1)
        """For signing and committing: they must not wait for threads that serve peers."""
        self._blocks: dict[bytes, Block] = dict(recovered.blocks)
        self._fetching: dict[bytes, trio.CancelScope] = {}
        self._to_check: set[bytes] = set()
        self._to_commit: Decide | None = None
        self._synced: dict[int, DecidedBlock] = {}
        self._budgets: dict[str, TokenBucket] = {}
        self._arrivals_ms: dict[bytes, int] = {}
        self._sent_commits: dict[str, tuple[float, set[int]]] = {}
        self._schedule: tuple[int, ProposerSchedule] | None = None
        self._began_at = -1e9
        self._nursery: trio.Nursery

    # ------------------------------------------------------------------ for other tasks

    def offer_decided(self, peer: str, block: Block, certificate: CommitCertificate) -> None:
        """A decided block from a peer that is ahead."""
        self._inbox.put(DecidedBlock(peer, block, certificate))

    @property
    def next_unknown_height(self) -> int:
        """The first height that is neither committed nor waiting to be."""
        height = self.ledger.head.number + 1
        while height in self._synced:
            height += 1
        return height

    # ------------------------------------------------------------------ the owner

    async def run(self) -> None:
        """Until cancelled. Raises Fatal (halt, disk)."""
        try:
            async with trio.open_nursery() as self._nursery:
                await self._resume()
                self._nursery.start_soon(self._listen)
                while True:
                    await self._take(await self._inbox.get())
        finally:
            self._wal.close()

    async def _listen(self) -> None:
        """Hand over what peers send, as fast as the owner takes it."""
        async for peer, payload in self._network.consensus:
            await self._inbox.give(Payload(peer, payload, now_ms()))

    async def _resume(self) -> None:
        """Go on where the log left off, or begin the height after the head."""
        self._tell_head()
        if self._recovered.height == 0:
            self._begin_after(0.0)
            return
        self._began_at = trio.current_time()
        self.started.set()
        log.info("log replayed", height=self.core.height, round=self.core.round, pending=len(self._recovered.outputs))
        for block in self._recovered.blocks.values():
            self._network.announce_block(block.hash, block.number, block.wire_body)
        for output in self._recovered.outputs:
            await self._carry_out(output)

    async def _take(self, item: Local | Payload) -> None:
        match item:
            case Payload(peer=peer, data=data) if not self._is_affordable(peer, len(data)):
                self.figures.dropped += 1
            case Payload(peer=peer, data=data, received_ms=received_ms):
                core = self.core
                members = core.validator_set if core.height else None
                try:
                    event = self.decoder.to_input(data, bytes.fromhex(peer), received_ms, core.height, members)
                except BadMessage as error:
                    self._network.misbehaved(peer, str(error))
                except OtherHeight:
                    self.figures.dropped += 1
                else:
                    if await self._step(event) and not isinstance(event, StatusReceived):
                        self._network.relay(data)
                    if self.core.is_behind and self.ledger.head.number == self.core.height:
                        # Others have begun the next height. Waiting for one's own interval would keep a node that once
                        # began late behind for ever: always in step, and never in time to vote.
                        self._begin_after(0.0)
            case BeginHeight(height=height):
                await self._begin(height)
            case BlockArrived(block=block):
                await self._on_block(block)
            case OwnBlock():
                await self._on_own_block(item)
            case DecidedBlock():
                await self._on_decided_elsewhere(item)
            case BlockChecked(block_hash=block_hash, valid=True) if item.height not in self._synced:
                # Whoever stands behind a block must be able to serve it, or a crash of all could lose a locked one.
                if (checked := self._blocks.get(block_hash)) is not None:
                    self._wal.append(RecordKind.BODY, checked.wire_body)
                await self._step(item)
            case event:
                await self._step(event)

    def _is_affordable(self, peer: str, size: int) -> bool:
        if size < LARGE_MESSAGE_BYTES:
            return True
        if peer not in self._budgets:
            while len(self._budgets) >= PEERS_MAX:
                del self._budgets[next(iter(self._budgets))]
            self._budgets[peer] = TokenBucket(LARGE_PER_SECOND, LARGE_BURST)
        return self._budgets[peer].take()

    async def _step(self, event: Input) -> bool:
        """One input: the core, then the log, then what follows from it. False when it had no effect at all."""
        outputs = self.core.receive(event)
        if isinstance(event, StartHeight):
            self._wal.rotate()
        effective = not outputs or not all(isinstance(output, Dropped) for output in outputs)
        if effective and not isinstance(event, StatusReceived):  # which changes nothing in the core
            self._wal.append(RecordKind.INPUT, encode_input(event))
            if isinstance(event, ProposalReceived):
                self._note_arrival(event)
        for output in outputs:
            await self._carry_out(output)
        return effective

    def _note_arrival(self, event: ProposalReceived) -> None:
        """When a fresh proposal came, for the comparison of clocks; a later round's is older than its arrival."""
        proposal = event.proposal.proposal
        if proposal.valid_round == NIL_ROUND and len(self._arrivals_ms) < BLOCKS_MAX:
            self._arrivals_ms.setdefault(proposal.block_hash, event.received_ms)

    async def _carry_out(self, output: Output) -> None:
        match output:
            case Broadcast(message=message):
                await self._sign_and_send(message)
            case Resend(message=message):
                self._network.broadcast(encode_message(message))
            case Redeliver(event=event):
                self._inbox.put(event)
            case SendStatus(height=height, round=round_, step=step):
                status = Status(height, round_, step, 1, self.ledger.head.number)
                self._network.broadcast(encode_message(status))
            case SendCommit(peer=peer, height=height):
                await self._send_commit(peer.hex(), height)
            case ScheduleTimeout():
                self._nursery.start_soon(self._timer, output)
            case BuildBlock(height=height, round=round_):
                if height not in self._synced:
                    self._nursery.start_soon(self._build, height, round_)
            case FetchBlock(block_hash=block_hash):
                self._fetch(block_hash)
            case CheckBlock(height=height, block_hash=block_hash):
                self._to_check.add(block_hash)
                if (block := self._blocks.get(block_hash)) is not None:
                    self._check(height, block)
                else:
                    self._fetch(block_hash)
            case Decide():
                await self._commit(output)
            case Evidence(signer=signer, first=first, second=second):
                self.figures.evidence += 1
                log.warning("a validator signed twice", signer=signer, first=str(first), second=str(second))
            case Dropped(reason=reason, height=height, round=round_, source=source):
                self.figures.dropped += 1
                log.debug("dropped", reason=reason, height=height, round=round_, source=source)
            case Halt(height=height, block_hash=block_hash, reason=reason):
                self._halt(height, block_hash, reason)

    # ------------------------------------------------------------------ heights

    def _begin_after(self, delay_seconds: float) -> None:
        height = self.ledger.head.number + 1
        if delay_seconds <= 0 or height in self._synced:
            self._inbox.put(BeginHeight(height))
        else:
            self._nursery.start_soon(self._begin_later, height, delay_seconds)

    def _tell_head(self) -> None:
        """Peers may ask for every block but genesis: nothing is pruned."""
        head = self.ledger.head.number
        self._network.set_head(head, min(1, head))

    async def _begin_later(self, height: int, delay_seconds: float) -> None:
        await trio.sleep(delay_seconds)
        self._inbox.put(BeginHeight(height))

    async def _begin(self, height: int) -> None:
        """StartHeight, unless it began meanwhile."""
        if height <= self.core.height or height != self.ledger.head.number + 1:
            return
        ledger, params = self.ledger, self.ledger.params
        members = ledger.validator_set(height)
        epoch = params.epoch(height)
        if self._schedule is None or self._schedule[0] != epoch:
            mix, first_height = ledger.proposer_seed(height)
            self._schedule = (epoch, ProposerSchedule(members, mix, first_height))
        self._began_at = trio.current_time()
        priorities = self._schedule[1].priorities(height)
        await self._step(StartHeight(height, members, ledger.validator_set(height + 1), priorities))
        self.started.set()
        if height in self._synced:
            await self._use_synced(height)

    async def _commit(self, decide: Decide) -> None:
        block = self._blocks.get(decide.block_hash)
        if block is None:
            # Decided by a certificate alone: the body is still to come.
            self._to_commit = decide
            self._fetch(decide.block_hash)
            return
        self._to_commit = None
        try:
            commit = partial(self.ledger.commit, block, decide.certificate)
            committed = await trio.to_thread.run_sync(commit, limiter=self._urgent)
        except InvalidBlock as error:
            self._halt(decide.height, decide.block_hash, f"decided, but invalid here: {error}")
        except KVFull as error:
            raise Fatal(DISK, str(error)) from error
        figures, height = self.figures, decide.height
        figures.blocks_committed += 1
        figures.finality_ms = max(0, now_ms() - block.sidecar.time_ms)
        figures.rounds_over_zero += decide.certificate.round > 0
        self._watch_own_key(committed)
        self._blocks.clear()
        for scope in self._fetching.values():
            scope.cancel()
        self._fetching.clear()
        self._to_check.clear()
        self._arrivals_ms.clear()
        self._synced.pop(height, None)
        self._network.forget_consensus()
        self._tell_head()
        level = log.info if figures.blocks_committed % 10 == 1 else log.debug
        level(
            "block committed", height=height, hash=block.hash, round=decide.certificate.round,
            transactions=len(block.transactions) - 1, finality_ms=figures.finality_ms,
        )  # fmt: skip
        for told in self.on_commit:
            told(committed)
        interval = self.ledger.params.block_interval_ms / 1000
        self._begin_after(0.0 if self.core.is_behind else self._began_at + interval - trio.current_time())

    def _watch_own_key(self, committed: Committed) -> None:
        """Tell a silent new signer when its key signs on another machine."""
        signer, certificate = self._signer, committed.certificate
        if signer is None or self.core.height != certificate.height:
            return
        members = self.core.validator_set
        index = members.index_of(signer.address)
        if index is not None and index in indexes_of(certificate.bitmap, len(members)):
            signer.saw_own_key(certificate.height, len(members))

    def _halt(self, height: int, block_hash: bytes, reason: str) -> None:
        """Write down what is known and stop: a quorum stands behind a block that is invalid here."""
        dump = self._dump_folder / f"halt-{height}.txt"
        block = self._blocks.get(block_hash)
        head = self.ledger.head
        dump.write_text(
            f"height {height}\nblock {block_hash.hex()}\nreason {reason}\nhead {head.number} {head.hash.hex()}\n"
            f"round {self.core.round}\nbody {block.wire_body.hex() if block else 'not at hand'}\n"
        )
        raise Fatal(HALTED, f"height {height}: {reason}; this is a bug: see {dump}")

    # ------------------------------------------------------------------ blocks

    async def _build(self, height: int, round_: int) -> None:
        members = self.core.validator_set
        head = self.ledger.head
        if self._signer is None or self._beacon_key is None or head.number != height - 1:
            return
        own = members.by_consensus_address(self._signer.address)
        assert own is not None
        message = bls.beacon_message(self.ledger.genesis_hash, head.header.mix_hash, height)
        deadline = time.monotonic() + self.ledger.params.build_limit_ms / 1000
        request = BuildRequest(
            round=round_,
            time_ms=max(now_ms(), head.sidecar.time_ms + 1),
            proposer=own.operator,
            beacon_proof=bls.sign(self._beacon_key, message),
            last_commit=encode_last_commit(self.ledger.certificate(head.number)),
            should_stop=lambda: time.monotonic() > deadline,
        )
        build = partial(self.ledger.build, request, self._mempool)
        try:
            block = await trio.to_thread.run_sync(build, limiter=self._heavy)
        except NotNext as error:
            log.debug("built too late", height=height, round=round_, reason=str(error))
            return
        self._inbox.put(OwnBlock(height, round_, block))

    async def _on_own_block(self, item: OwnBlock) -> None:
        """The body goes into the log before the proposal can be signed."""
        block = item.block
        if item.height != self.core.height or self.core.decided:
            return
        self._blocks[block.hash] = block
        self._wal.append(RecordKind.BODY, block.wire_body)
        await self._step(
            BlockBuilt(
                item.height, item.round, block.hash, block.sidecar.time_ms, block.sidecar.proposer,
                len(block.wire_body), block.parts_root,
            )
        )  # fmt: skip

    def _fetch(self, block_hash: bytes) -> None:
        if block_hash not in self._blocks and block_hash not in self._fetching:
            self._let_go()
            scope = self._fetching[block_hash] = trio.CancelScope()
            self._nursery.start_soon(self._fetch_until_found, block_hash, scope)

    async def _fetch_until_found(self, block_hash: bytes, scope: trio.CancelScope) -> None:
        with scope:
            body = await self._network.fetch_block(block_hash)
            try:
                self._inbox.put(BlockArrived(await trio.to_thread.run_sync(decode_block, body)))
            except MalformedBlock as error:
                log.warning("a body with a right hash is malformed", hash=block_hash, reason=str(error))

    async def _on_block(self, block: Block) -> None:
        self._fetching.pop(block.hash, None)
        if block.number != self.ledger.head.number + 1:
            return
        self._let_go()
        self._blocks[block.hash] = block
        if block.hash in self._to_check:
            self._check(block.number, block)
        if self._to_commit is not None and self._to_commit.block_hash == block.hash:
            await self._commit(self._to_commit)

    def _let_go(self) -> None:
        """Make room for one more: a height can last for any number of rounds, each with new blocks."""
        if len(self._blocks) >= BLOCKS_MAX:
            self._blocks = {name: block for name, block in self._blocks.items() if self.core.names(name)}
        if len(self._fetching) >= BLOCKS_MAX:
            for name in [name for name in self._fetching if not self.core.names(name)]:
                self._fetching.pop(name).cancel()
                self._to_check.discard(name)

    def _check(self, height: int, block: Block) -> None:
        self._to_check.discard(block.hash)
        self._nursery.start_soon(self._check_in_thread, height, block)

    async def _check_in_thread(self, height: int, block: Block) -> None:
        valid, reason = True, ""
        try:
            await trio.to_thread.run_sync(self.ledger.check, block, limiter=self._heavy)
        except InvalidBlock as error:
            valid, reason = False, str(error)
        if self.ledger.head.number != height - 1:
            return
        sidecar = block.sidecar
        if not valid:
            log.warning("invalid block", height=height, hash=block.hash, proposer=sidecar.proposer, reason=reason)
        elif block.hash in self._arrivals_ms and not self._is_own(sidecar.proposer):
            line = self.clock.proposal(sidecar.time_ms, self._arrivals_ms[block.hash])
            if line is not None:
                log.warning(line, offset_ms=self.clock.offset_ms)
        self._inbox.put(
            BlockChecked(
                height, block.hash, valid, reason, sidecar.time_ms, sidecar.proposer, len(block.wire_body),
                block.parts_root,
            )
        )  # fmt: skip

    def _is_own(self, operator: bytes) -> bool:
        member = self.core.validator_set.by_operator(operator)
        return member is not None and self._signer is not None and member.consensus_address == self._signer.address

    # ------------------------------------------------------------------ catching up

    async def _on_decided_elsewhere(self, item: DecidedBlock) -> None:
        """Keep it for its height; at the core's own height it is used at once."""
        height = item.certificate.height
        head = self.ledger.head.number
        if not head < height <= head + SYNCED_BLOCKS_MAX or height in self._synced:
            return
        self._synced[height] = item
        if height == self.core.height and self.core.decided:
            await self._on_block(item.block)  # decided, but its body was not at hand
        elif height == self.core.height:
            await self._use_synced(height)
        elif height == head + 1 and self.core.height < height:
            await self._begin(height)

    async def _use_synced(self, height: int) -> None:
        """Body and certificate go the way that everything goes: through the core."""
        item = self._synced[height]
        try:
            payload = encode_message(item.certificate)
            event = self.decoder.to_input(payload, b"", now_ms(), height, self.core.validator_set)
        except (BadMessage, OtherHeight) as error:
            del self._synced[height]
            self._network.misbehaved(item.peer, f"range with a bad certificate of {height}: {error}")
            return
        if item.block.hash != item.certificate.block_hash:
            del self._synced[height]
            self._network.misbehaved(item.peer, f"range with a body that is not the decided one of {height}")
            return
        assert isinstance(event, CertificateReceived)
        await self._on_block(item.block)
        await self._step(event)

    async def _send_commit(self, peer: str, height: int) -> None:
        now = trio.current_time()
        since, heights = self._sent_commits.get(peer, (-1e9, set()))
        if now - since >= COMMIT_RESEND_SECONDS:
            since, heights = now, set()
        if height in heights or len(heights) >= COMMITS_RESENT_MAX:
            return
        certificate = self.ledger.certificate(height)
        if certificate is not None:
            self._sent_commits[peer] = (since, heights | {height})
            while len(self._sent_commits) > PEERS_MAX:
                del self._sent_commits[next(iter(self._sent_commits))]
            self._network.send(peer, encode_message(certificate))

    # ------------------------------------------------------------------ signing, timers

    async def _sign_and_send(self, message: Proposal | Vote) -> None:
        """Log, signer, network, and back to the core, in this order."""
        signer = self._signer
        if signer is None:
            return

        def release() -> tuple[Signed, bytes]:
            self._wal.sync()
            signed = signer.sign(message, self._wal.last_sequence)
            return signed, encode_message(signed)

        try:
            signed, payload = await trio.to_thread.run_sync(release, limiter=self._urgent)
        except RefusedToSign as error:
            self.figures.refused_signatures += 1
            log.warning("not signed", reason=str(error))
            return
        if isinstance(signed, SignedProposal):
            block = self._blocks.get(signed.proposal.block_hash)
            if block is not None:
                self._network.announce_block(block.hash, block.number, block.wire_body)
            self._network.broadcast(payload)
            self._inbox.put(ProposalReceived(signed, signer.address, now_ms()))
        else:
            self._network.broadcast(payload)
            self._inbox.put(VoteReceived(signed, signer.address))

    async def _timer(self, output: ScheduleTimeout) -> None:
        await trio.sleep(output.duration_ms / 1000)
        if output.height == self.core.height:
            self._inbox.put(TimeoutElapsed(output.kind, output.height, output.round))


def decode_decided(body: bytes, certificate: bytes) -> tuple[Block, CommitCertificate]:
    """A block of a peer's range. Raises BadMessage."""
    try:
        message = decode_message(certificate)
        block = decode_block(body)
    except (InvalidMessage, MalformedBlock) as error:
        raise BadMessage(str(error)) from error
    if not isinstance(message, CommitCertificate):
        raise BadMessage("a range carries commit certificates")
    if block.hash != message.block_hash:
        raise BadMessage(f"block 0x{block.hash.hex()} with the certificate of 0x{message.block_hash.hex()}")
    # A forged body under a decided header would look like a decided block that is invalid, and halt the node.
    if not is_whole(block):
        raise BadMessage(f"the contents are not those of the header of block 0x{block.hash.hex()}")
    return block, message
