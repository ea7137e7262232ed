"""A seeded cluster of agreement cores in virtual time: what the network, the disk and liars can do, and the checks.

Everything follows from the seed: sizes, weights, delays, drops, duplicates, partitions, crashes, an equivocating twin.
Before `stable_at` anything goes; after it messages of correct nodes arrive within 100 ms. Checked throughout: no two
correct nodes decide differently, none signs two messages of one step, none halts; and from stable_at on no 60 virtual
seconds pass without every correct node getting on.

A twin is a second node with the key of another, running the same correct code, each heard by a part of the others: it
equivocates in every way that the code can. Half of the twins also forget every lock and valid value. Signatures are
stand-ins (the signer's place repeated): nobody forges here.

Durability is modelled as consensus.md orders it: input appended, synced, own message kept by the signer, then sent; a
crash may fall between any two of these and in the middle of sending. Recovery replays the log through its encoding.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from consensus.bft import certificate as certificates
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
    decode_input,
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
from consensus.bft.round import Event, PolkaValue
from consensus.bft.timing import Timing
from primitives.hashing import keccak
from primitives.validators import Validator, ValidatorSet
from primitives.vote import (
    NIL_ROUND,
    CommitCertificate,
    PolkaCertificate,
    Proposal,
    RoundCertificate,
    Signed,
    SignedProposal,
    SignedVote,
    Status,
    Vote,
    VoteType,
    step_of,
)

EPOCH_BLOCKS = 3
STALL_MS = 60_000
SYNCED_DELAY_MS = 100
WALL_CLOCK_MS = 1_700_000_000_000
WEIGHTS = (
    [10] * 10,
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    [5, 7, 9, 11, 5, 7, 9, 11, 5, 7],
    [30, 30, 30, 20, 10, 5, 5, 1, 1, 1],
)
GENESIS_HASH = b"\x00" * 32
TIMING = Timing()


class Violation(AssertionError):
    """A property of the agreement does not hold; the message begins with the seed that shows it."""


class AgreementViolated(Violation):
    """Two correct nodes decided different blocks of one height."""


class DoubleSigned(Violation):
    """A correct node signed two different messages of one step."""


class Stalled(Violation):
    """A correct node got no further for 60 virtual seconds after stabilisation."""


class Halted(Violation):
    """A correct node saw a quorum behind an invalid block."""


class Crashed(Exception):
    """This node's process ends here."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block body, as far as agreement cares."""

    hash: bytes
    height: int
    parent: bytes
    author: bytes
    time_ms: int
    valid: bool


@dataclass(slots=True)
class Signer:
    """Double-sign protection: it remembers the last message, gives the same again, refuses what lies behind it."""

    place: tuple[int, int, int] = (0, 0, -1)
    message: Proposal | Vote | None = None

    def allows(self, message: Proposal | Vote) -> bool:
        """Persist and allow; or allow the same again; or refuse."""
        place = (message.height, message.round, step_of(message))
        if place > self.place:
            self.place, self.message = place, message
            return True
        return message == self.message


class Node:
    """One process: a core, what it keeps on disk (log, signer, chain), and what it holds in memory."""

    def __init__(self, cluster: "Cluster", name: int, index: int, skew_ms: int) -> None:
        self.cluster = cluster
        self.name = name
        self.index = index
        self.skew_ms = skew_ms
        self.address = cluster.addresses[index]
        self.log: list[Input] = []
        self.signer = Signer()
        self.chain: list[tuple[bytes, CommitCertificate | None, int]] = [(GENESIS_HASH, None, 0)]
        self.life = 0
        self.up = False
        self.crash_in: int | None = None
        self.bodies: set[bytes] = set()
        self.checks: dict[bytes, int] = {}
        self.started_ms = 0
        self.core = cluster.core_of(index)

    @property
    def height(self) -> int:
        """Blocks committed."""
        return len(self.chain) - 1

    # -------------------------------------------------------------- life and death

    def start(self) -> None:
        """Begin, or begin again: replay the log of an uncommitted height, else start the next one."""
        self.life += 1
        self.up = True
        self.crash_in = None
        self.core = self.cluster.core_of(self.index)
        self.checks = {}
        if self.log and isinstance(self.log[0], StartHeight) and self.log[0].height == self.height + 1:
            log = [decode_input(encode_input(event)) for event in self.log]
            assert log == self.log
            for event in log:
                self.core.receive(event)
            self.run(deque(), self.core.resume())
        else:
            self.begin_height()

    def begin_height(self) -> None:
        """StartHeight of the block after the head; the log of the height before is not needed any more."""
        height = self.height + 1
        self.started_ms = self.cluster.now
        self.log = []
        self.checks = {}
        self.feed(self.cluster.start_of(height))

    def clock_ms(self) -> int:
        """This node's wall clock."""
        return WALL_CLOCK_MS + self.cluster.now + self.skew_ms

    def boundary(self) -> None:
        """A place where the process may end."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise Crashed

    # -------------------------------------------------------------- inputs and outputs

    def feed(self, event: Input) -> None:
        """One input and all that follows from it at once."""
        self.run(deque([event]), [])

    def run(self, queue: "deque[Input]", outputs: list[Output]) -> None:
        """Inputs in order, each logged and synced before its outputs are carried out."""
        try:
            for output in outputs:
                self.carry_out(output, queue)
            while queue:
                event = queue.popleft()
                outputs = self.core.receive(event)
                self.boundary()  # appended, not synced: the record is lost
                self.log.append(event)
                for output in outputs:
                    self.boundary()
                    self.carry_out(output, queue)
        except Crashed:
            self.cluster.die(self)

    def carry_out(self, output: Output, queue: "deque[Input]") -> None:
        """What node does with an output."""
        cluster = self.cluster
        match output:
            case Broadcast(message=message):
                self.sign_and_send(message, queue)
            case Resend(message=message):
                cluster.send_all(self, message)
            case Redeliver(event=event):
                queue.append(event)
            case SendStatus(height=height, round=round_, step=step):
                cluster.send_all(self, Status(height, round_, step, 0, self.height))
            case SendCommit(peer=peer, height=height):
                if height <= self.height:
                    certificate = self.chain[height][1]
                    assert certificate is not None
                    cluster.send(self, cluster.nodes[peer[0]], certificate)
            case ScheduleTimeout(kind=kind, height=height, round=round_, duration_ms=duration_ms):
                cluster.later(duration_ms, self, TimeoutElapsed(kind, height, round_))
            case BuildBlock(height=height, round=round_):
                block = cluster.build(self, height)
                self.bodies.add(block.hash)
                built = BlockBuilt(height, round_, block.hash, block.time_ms, block.author, 1, block.hash)
                cluster.later(cluster.work_ms(), self, built)
            case FetchBlock(block_hash=block_hash):
                if block_hash not in self.bodies:
                    cluster.fetch(self, block_hash)
            case CheckBlock(height=height, block_hash=block_hash):
                self.checks[block_hash] = height
                self.check(block_hash)
            case Decide(height=height, block_hash=block_hash, certificate=certificate):
                cluster.decided(self, height, block_hash, certificate)
            case Halt():
                cluster.halted(self, output)
            case Evidence(signer=signer, first=first, second=second):
                cluster.accused(self, signer, first, second)
            case Dropped():
                cluster.dropped += 1

    def sign_and_send(self, message: Proposal | Vote, queue: "deque[Input]") -> None:
        """Signer first (durable), then the network, then back to the core."""
        if not self.signer.allows(message):
            return
        self.cluster.signed(self, message)
        signature = bytes([self.index]) * 65
        self.boundary()
        signed: Signed
        if isinstance(message, Proposal):
            signed = SignedProposal(message, signature)
            queue.append(ProposalReceived(signed, self.address, self.clock_ms()))
        else:
            signed = SignedVote(message, signature)
            queue.append(VoteReceived(signed, self.address))
        self.cluster.send_all(self, signed)

    def check(self, block_hash: bytes) -> None:
        """Answer a check once the body is here."""
        if block_hash not in self.bodies or block_hash not in self.checks:
            return
        height = self.checks.pop(block_hash)
        block = self.cluster.blocks[block_hash]
        valid = block.height == height and block.parent == self.chain[-1][0] and block.valid
        reason = "" if valid else "does not extend the head"
        answer = BlockChecked(height, block_hash, valid, reason, block.time_ms, block.author, 1, block_hash)
        self.cluster.later(self.cluster.work_ms(), self, answer)

    def deliver(self, sender: "Node", message: object) -> None:
        """A message from the network, after its (modelled) signature check."""
        match message:
            case SignedVote(signature=signature):
                self.feed(VoteReceived(message, self.cluster.addresses[signature[0]]))
            case SignedProposal(signature=signature):
                received_ms = self.clock_ms()
                self.feed(ProposalReceived(message, self.cluster.addresses[signature[0]], received_ms))
            case Status():
                if message.height <= self.height + 1:
                    self.feed(StatusReceived(bytes([sender.name]), message))
            case PolkaCertificate() | RoundCertificate() | CommitCertificate():
                if message.height == self.height + 1:
                    self.cluster.verify(message)
                    if isinstance(message, CommitCertificate) and message.block_hash in sender.bodies:
                        self.bodies.add(message.block_hash)
                        self.check(message.block_hash)
                    self.feed(CertificateReceived(message))


class Forgetful(Core):
    """A liar's core: never locked, and always with a new proposal."""

    def _apply(self, event: Event) -> None:
        super()._apply(event)
        self.state = replace(
            self.state, locked_round=NIL_ROUND, locked_hash=None, valid_round=NIL_ROUND, valid_hash=None
        )

    def _earlier_polka(self) -> PolkaValue | None:
        return None


class Cluster:
    """The world of one seed."""

    def __init__(self, seed: int, make_core: Callable[[bytes, Timing], Core] = Core) -> None:
        self.seed = seed
        self.make_core = make_core
        self.dice = dice = random.Random(seed)
        self.now = 0
        self.dropped = 0
        self.sequence = 0
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.blocks: dict[bytes, Block] = {}
        self.decisions: dict[int, bytes] = {}
        self.statements: dict[tuple[int, int, int, int], Proposal | Vote] = {}
        self.size = size = dice.choice((4, 5, 7, 10))
        self.addresses = [bytes([i + 1]) * 20 for i in range(size)]
        self.sets = self.choose_sets()
        self.stable_at = dice.randrange(0, 10_000)
        self.drop = dice.choice((0.0, 0.05, 0.2, 0.4))
        self.precommit_drop = dice.choice((0.0, 0.0, 0.5, 0.8))
        self.duplicate = dice.choice((0.0, 0.05, 0.2))
        self.delay_ms = dice.choice((50, 300, 3000))
        self.slow_work_ms = dice.choice((20, 20, 300, 3000))
        self.interval_ms = dice.choice((100, 1000))
        self.liar = self.choose_liar()
        self.forgetful = dice.random() < 0.5
        self.nodes = [Node(self, i, i, dice.randrange(-200, 201)) for i in range(size)]
        if self.liar is not None:
            self.nodes.append(Node(self, size, self.liar, dice.randrange(-200, 201)))
        self.honest = [node for node in self.nodes if node.index != self.liar]
        self.audience = {
            node.name: frozenset(other.name for other in self.nodes if dice.random() < 0.6)
            for node in self.nodes
            if node.index == self.liar
        }
        self.cut: frozenset[int] = frozenset()
        self.progress_at = self.stable_at
        self.progress = 0

    # -------------------------------------------------------------- the cast

    def choose_sets(self) -> list[ValidatorSet]:
        """Sets of epochs 0 (twice) and later ones in turn: equal or uneven weights, reshuffled from epoch to epoch."""
        weights = self.dice.choice(
            (
                [10] * 10,
                [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
                [5, 7, 9, 11, 5, 7, 9, 11, 5, 7],
                [30, 30, 30, 20, 10, 5, 5, 1, 1, 1],
            )
        )[: self.size]
        sets = []
        for _ in range(2):
            sets.append(make_set(tuple(weights)))
            weights = weights[1:] + weights[:1] if self.dice.random() < 0.3 else weights
        return sets

    def choose_liar(self) -> int | None:
        """A member below a third in every set, or nobody."""
        if self.dice.random() < 0.3:
            return None
        light = [i for i in range(self.size) if all(3 * s.validators[i].power < s.total_power for s in self.sets)]
        return self.dice.choice(light) if light else None

    def core_of(self, index: int) -> Core:
        """A fresh core for this member; a liar's may be a bad one."""
        if index == self.liar and self.forgetful:
            return Forgetful(self.addresses[index], TIMING)
        return self.make_core(self.addresses[index], TIMING)

    def set_of(self, height: int) -> ValidatorSet:
        """The set of a height: it changes with the epoch."""
        return self.sets[(height - 1) // EPOCH_BLOCKS % 2]

    def start_of(self, height: int) -> StartHeight:
        """StartHeight, the same for everyone."""
        first = (height - 1) // EPOCH_BLOCKS * EPOCH_BLOCKS + 1
        priorities = schedule(self.set_of(height), first).priorities(height)
        return StartHeight(height, self.set_of(height), self.set_of(height + 1), priorities)

    # -------------------------------------------------------------- time

    def at(self, moment: int, action: Callable[[], None]) -> None:
        """Have something happen."""
        self.sequence += 1
        heapq.heappush(self.heap, (moment, self.sequence, action))

    def later(self, delay_ms: int, node: Node, event: Input) -> None:
        """An input for this life of the node; a crash forgets it."""
        life = node.life

        def arrive() -> None:
            if node.up and node.life == life:
                node.feed(event)

        self.at(self.now + delay_ms, arrive)

    def work_ms(self) -> int:
        """How long building or checking takes: quick once things are stable."""
        return self.dice.randrange(1, self.slow_work_ms if self.now < self.stable_at else 20)

    # -------------------------------------------------------------- the network

    def send_all(self, sender: Node, message: object) -> None:
        """To everyone else; a crash may come half way through."""
        for node in self.nodes:
            if node is not sender:
                self.send(sender, node, message)
        sender.boundary()

    def send(self, sender: Node, receiver: Node, message: object) -> None:
        """One message on its way, if the network lets it."""
        dice = self.dice
        stable = self.now >= self.stable_at
        audience = self.audience.get(sender.name)
        if audience is not None and receiver.name not in audience:
            return
        if not stable:
            cut = (sender.name in self.cut) != (receiver.name in self.cut)
            if cut or dice.random() < (self.precommit_drop if is_precommit(message) else self.drop):
                return
        copies = 2 if dice.random() < self.duplicate else 1
        for _ in range(copies):
            delay_ms = dice.randrange(1, SYNCED_DELAY_MS if stable else self.delay_ms)

            def arrive() -> None:
                if receiver.up:
                    receiver.deliver(sender, message)

            self.at(self.now + delay_ms, arrive)

    def fetch(self, node: Node, block_hash: bytes) -> None:
        """Ask one peer after another until one that is within reach has the body."""
        life = node.life
        height = node.height

        def attempt() -> None:
            if not node.up or node.life != life or node.height != height or block_hash in node.bodies:
                return
            peer = self.dice.choice(self.nodes)
            within = self.now >= self.stable_at or (node.name in self.cut) == (peer.name in self.cut)
            if peer.up and within and block_hash in peer.bodies:
                node.bodies.add(block_hash)
                node.check(block_hash)
            else:
                self.at(self.now + 40, attempt)

        self.at(self.now + self.dice.randrange(5, 60), attempt)

    def verify(self, certificate: PolkaCertificate | RoundCertificate | CommitCertificate) -> None:
        """What certificate.verify checks, but for the signatures."""
        members = self.set_of(certificate.height)
        votes = certificates.votes_of(members, certificate)
        power = members.power_of(index for index, _ in votes)
        enough = members.is_over_third if isinstance(certificate, RoundCertificate) else members.is_quorum
        assert enough(power), f"seed {self.seed}: a core made {certificate}"

    # -------------------------------------------------------------- faults

    def plan_faults(self) -> None:
        """Partitions and crashes, all over by stable_at."""
        dice = self.dice
        for _ in range(dice.randrange(0, 6)):
            begin = dice.randrange(0, self.stable_at + 1)
            names = frozenset(node.name for node in self.nodes if dice.random() < 0.5)
            self.at(begin, lambda names=names: setattr(self, "cut", names))
        for _ in range(dice.randrange(0, 5)):
            node = dice.choice(self.nodes)
            delay, boundaries = dice.randrange(0, self.stable_at + 1), dice.randrange(0, 12)
            self.at(delay, lambda node=node, boundaries=boundaries: setattr(node, "crash_in", boundaries))
        self.at(self.stable_at, self.stabilise)

    def die(self, node: Node) -> None:
        """The process ended: memory is gone, and so are fetched bodies; it is started again before long."""
        node.up = False
        node.life += 1
        own = {event.block_hash for event in node.log if isinstance(event, BlockBuilt)}
        node.bodies = own | {block_hash for block_hash, _, _ in node.chain}
        again = self.now + self.dice.randrange(10, 5000)
        if self.now < self.stable_at:
            again = min(again, self.stable_at)
        self.at(again, lambda: None if node.up else node.start())

    def stabilise(self) -> None:
        """From here on no new faults, but for the liar's."""
        for node in self.nodes:
            node.crash_in = None
            if not node.up:
                node.start()
        self.progress = min(node.height for node in self.honest)

    # -------------------------------------------------------------- what nodes do, checked

    def build(self, node: Node, height: int) -> Block:
        """A new block on the node's head; a liar's may be invalid."""
        parent = node.chain[-1]
        self.sequence += 1
        time_ms = max(node.clock_ms(), parent[2] + 1)
        author = self.set_of(height).validators[node.index].operator
        valid = node.index != self.liar or self.dice.random() < 0.7
        block_hash = keccak(b"%d %d %d" % (height, node.name, self.sequence))
        block = self.blocks[block_hash] = Block(block_hash, height, parent[0], author, time_ms, valid)
        return block

    def signed(self, node: Node, message: Proposal | Vote) -> None:
        """No correct node signs two different messages of one step."""
        if node.index == self.liar:
            return
        place = (node.index, message.height, message.round, step_of(message))
        before = self.statements.setdefault(place, message)
        if before != message:
            raise DoubleSigned(f"seed {self.seed}: node {node.name} signed {before} and {message}")

    def accused(self, node: Node, signer: bytes, first: Signed, second: Signed) -> None:
        """Evidence names nobody but the liar."""
        if self.liar is None or signer != self.addresses[self.liar]:
            raise DoubleSigned(f"seed {self.seed}: node {node.name} accuses {signer.hex()}: {first}, {second}")

    def halted(self, node: Node, halt: Halt) -> None:
        """No correct node ever needs to halt."""
        if node.index != self.liar:
            raise Halted(f"seed {self.seed}: node {node.name}: {halt}")
        node.up = False

    def decided(self, node: Node, height: int, block_hash: bytes, certificate: CommitCertificate) -> None:
        """Commit, and begin the next height at the pace of the chain."""
        if node.height >= height:
            return
        assert node.height == height - 1 and certificate.block_hash == block_hash
        self.verify(certificate)
        if node.index != self.liar:
            agreed = self.decisions.setdefault(height, block_hash)
            if agreed != block_hash:
                raise AgreementViolated(
                    f"seed {self.seed}: height {height}: node {node.name} decided {block_hash.hex()[:8]}"
                    f" in round {certificate.round}, others {agreed.hex()[:8]}"
                )
        node.chain.append((block_hash, certificate, self.blocks[block_hash].time_ms))
        life = node.life

        def begin() -> None:
            if node.up and node.life == life and node.height == height:
                node.begin_height()

        self.at(max(self.now + self.work_ms(), node.started_ms + self.interval_ms), begin)

    # -------------------------------------------------------------- the run

    def run(self, blocks_after: int = 2) -> "Cluster":
        """Until every correct node has committed blocks_after more than anyone had when things became stable."""
        self.plan_faults()
        for node in self.nodes:
            self.at(self.dice.randrange(0, 200), lambda node=node: None if node.life else node.start())
        target = None
        while self.heap:
            self.now, _, action = heapq.heappop(self.heap)
            action()
            if self.now < self.stable_at:
                continue
            if target is None:
                target = max(node.height for node in self.honest) + blocks_after
            lowest = min(node.height for node in self.honest)
            if lowest >= target:
                return self
            if lowest > self.progress:
                self.progress, self.progress_at = lowest, self.now
            if self.now - self.progress_at > STALL_MS:
                places = [(node.height, node.core.round, node.core.state.step.name) for node in self.honest]
                raise Stalled(f"seed {self.seed}: at height {lowest}, size {self.size}, liar {self.liar}: {places}")
        raise Stalled(f"seed {self.seed}: nothing left to happen")


def is_precommit(message: object) -> bool:
    """Precommits are dropped at a rate of their own: that is how locks without decisions come about."""
    return isinstance(message, SignedVote) and message.vote.type is VoteType.PRECOMMIT


@cache
def make_set(weights: tuple[int, ...]) -> ValidatorSet:
    """Members in order of their place: operator and consensus address are both made of it."""
    return ValidatorSet.of(
        Validator(bytes([i + 101]) * 20, bytes([i + 1]) * 20, weight, bytes(48)) for i, weight in enumerate(weights)
    )


_SCHEDULES: dict[tuple[bytes, int], ProposerSchedule] = {}


def schedule(validator_set: ValidatorSet, first_height: int) -> ProposerSchedule:
    """The proposers of an epoch; many nodes and seeds ask for the same."""
    key = (validator_set.hash, first_height)
    if key not in _SCHEDULES:
        _SCHEDULES[key] = ProposerSchedule(validator_set, first_height.to_bytes(32, "big"), first_height)
    return _SCHEDULES[key]
