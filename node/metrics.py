"""What this node shows Prometheus: names, meanings, and where each number comes from.

Names are those of EIP-2159, of CometBFT (labora_consensus_) and of vLLM (labora_inference_) where they have one. Labels
take their values from fixed lists (reasons, roles, statuses) or from the models that this node serves, never from what
strangers choose. Numbers are floats here: amounts in wei are near, not exact; JSON-RPC has them exact.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import trio
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.openmetrics import exposition as openmetrics

from chain.ledger import Committed, Ledger
from chain.mempool import Mempool
from node.consensus import Consensus
from node.disputes import DisputeService
from node.inference import InferenceService
from node.sync import Sync
from p2p.network import Network
from p2p.pool import PEERS_MAX
from primitives.address import STAKING
from primitives.params import CWU
from primitives.reasons import Reason, reason_of
from primitives.receipt import Log
from primitives.task import Status
from primitives.validators import indexes_of
from vm.system import abi, views
from vm.system.views import OperatorView

ROLES = {abi.ROLE_EXECUTE: "execute", abi.ROLE_AUDIT: "check"}
TOLERANT_ROLE, GAS_ROLE = "tolerant", "gas"
"""An answer of the tolerant lane; what comes back to the hot account for the gas of its messages."""
OPEN = (
    Status.POSTED, Status.DEALT, Status.ANSWERED, Status.DRAWN, Status.REVEALING, Status.AGREED, Status.UNVERIFIED,
    Status.DISPUTED, Status.REFUTED,
)  # fmt: skip
SHORT = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
LONG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
"""Bounds of histograms' buckets, seconds."""


@dataclass(frozen=True)
class _State:
    """What the committed state says, read beside the event loop."""

    base_price: int
    disputes: int
    operator: OperatorView | None
    hot_balance: int


class Metrics:
    """The registry of one node. Follows its commits; everything else is read when it is asked for."""

    def __init__(
        self, version: str, ledger: Ledger, mempool: Mempool, network: Network, consensus: Consensus, sync: Sync,
        inference: InferenceService, disputes: DisputeService,
    ) -> None:  # fmt: skip
        disable_created_metrics()
        self._version, self._ledger, self._mempool, self._network = version, ledger, mempool, network
        self._consensus, self._sync, self._inference, self._disputes = consensus, sync, inference, disputes
        self._registry = CollectorRegistry()
        self._asking = trio.Lock()
        self._families: list[Metric] = []
        self._earned: Counter[str] = Counter()
        self._slashed_wei: Counter[str] = Counter()
        self._last_signed = self._missed_blocks = 0
        self._last_time_ms = ledger.head.sidecar.time_ms
        self._prologue_gas = 0
        self._interval = self._histogram("labora_consensus_block_interval_seconds", "Between two blocks' times.", LONG)
        self._finality = self._histogram(
            "labora_consensus_finality_seconds", "From a block's own time to its commit here, unless catching up.", LONG
        )
        prologue = self._histogram(
            "labora_chain_prologue_seconds", "Executing a block's system prologue, in a block checked or built.", SHORT
        )
        self._first_token = self._histogram(
            "labora_inference_time_to_first_token_seconds", "Of an answer, from its place in a batch on.", LONG
        )
        self._token = self._histogram(
            "labora_inference_time_per_output_token_seconds", "Of an answer, after its first token.", SHORT
        )
        self._registry.register(self)
        ledger.prologue_timer = prologue.time
        consensus.on_commit.append(self._on_commit)
        inference.on_answer.append(self._on_answer)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) for a scraper that takes these types. Their parameters are not looked at: the client
        library compares the versions that a stranger names as if they were numbers."""
        types = {item.partition(";")[0].strip() for item in accept.split(",")}
        if openmetrics.CONTENT_TYPE_LATEST.partition(";")[0] in types:
            encode, content_type = openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
        else:
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        async with self._asking:
            now = [*self._chain(), *self._peers(), *self._working()]
            self._families = [*now, *self._of_state(await trio.to_thread.run_sync(self._read))]
            return await trio.to_thread.run_sync(encode, self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """For the registry: what `page` put together."""
        return iter(self._families)

    # ------------------------------------------------------------------ as it happens

    def _on_commit(self, committed: Committed) -> None:
        block, certificate, consensus = committed.block, committed.certificate, self._consensus
        if block.number > 1:  # block 0 is as old as its file
            self._interval.observe(max(0, block.sidecar.time_ms - self._last_time_ms) / 1000)
        self._last_time_ms = block.sidecar.time_ms
        if not self._sync.catching_up:
            self._finality.observe(consensus.figures.finality_ms / 1000)
        self._prologue_gas = committed.receipts[0].gas_used
        members, own = self._ledger.validator_set(certificate.height), consensus.core.own_address
        index = None if own is None else members.index_of(own)
        if index is not None and index in indexes_of(certificate.bitmap, len(members)):
            self._last_signed = certificate.height
        elif index is not None:
            self._missed_blocks += 1
        if operator := self._inference.operator:
            for receipt in committed.receipts:
                for entry in receipt.logs:
                    self._follow(entry, operator)

    def _follow(self, entry: Log, operator: bytes) -> None:
        """What this operator was paid, and lost."""
        event = abi.event_of(entry)
        if event in (abi.PAID, abi.TRAP_PAID) and entry.topics[2][12:] == operator:
            values, to = event.decode(entry.topics, entry.data), entry.topics[3][12:]
            if to != STAKING:  # that is its delegators' part
                role = GAS_ROLE if to == self._inference.hot else ROLES.get(values["role"], GAS_ROLE)
                self._earned[role] += values["amount"]
        elif event is abi.TOLERANT_PAID and entry.topics[2][12:] == operator:
            self._earned[TOLERANT_ROLE] += event.decode(entry.topics, entry.data)["executorWei"]
        elif event is abi.SLASHED and entry.topics[1][12:] == operator:
            values = event.decode(entry.topics, entry.data)
            self._slashed_wei[Reason(values["reason"]).code] += values["amount"]

    def _on_answer(self, tokens: int, first_token_ms: int, total_ms: int) -> None:
        self._first_token.observe(first_token_ms / 1000)
        if tokens > 1:
            self._token.observe(max(0, total_ms - first_token_ms) / 1000 / (tokens - 1))

    # ------------------------------------------------------------------ when it is asked

    def _chain(self) -> Iterator[Metric]:
        ledger, consensus = self._ledger, self._consensus
        head, figures = ledger.head, consensus.figures
        members = ledger.validator_set(head.number + 1)
        best = max(head.number, self._sync.highest_claimed)
        info = {"version": self._version, "chain_id": str(ledger.params.chain_id), "peer_id": self._network.id}
        process = GaugeMetricFamily("labora_node_info", "This process.", labels=info.keys())
        process.add_metric(info.values(), 1.0)
        yield process
        yield _gauge("ethereum_blockchain_height", "Height of the head.", head.number)
        yield _gauge("ethereum_best_known_block_number", "Highest height that a peer claims.", best)
        yield _gauge("labora_consensus_height", "Height that is agreed on.", consensus.core.height)
        yield _gauge("labora_consensus_rounds", "Its round.", consensus.core.round)
        yield _gauge("labora_consensus_validators", "Members of the set.", len(members))
        yield _gauge("labora_consensus_validators_power", "Votes of all of them.", members.total_power)
        yield _gauge(
            "labora_consensus_validator_last_signed_height", "Last commit certificate with this validator's signature.",
            self._last_signed,
        )  # fmt: skip
        yield _counter(
            "labora_consensus_missed_blocks", "Certificates without it, while it was in the set.", self._missed_blocks
        )
        yield _counter("labora_consensus_late_blocks", "Decided after round 0.", figures.rounds_over_zero)
        yield _counter("labora_consensus_evidence", "Votes of a validator for two blocks.", figures.evidence)
        yield _counter("labora_consensus_dropped_messages", "Of peers, without effect.", figures.dropped)
        yield _counter("labora_consensus_refused_signatures", "By the own signer.", figures.refused_signatures)
        yield _gauge(
            "labora_consensus_clock_offset_seconds", "Own clock against the times of others' proposals.",
            consensus.clock.offset_ms / 1000,
        )  # fmt: skip
        yield _gauge("labora_chain_base_fee_wei", "Wei a gas of the next block.", ledger.next_base_fee())
        yield _gauge("labora_chain_gas_used", "Gas of the last block.", head.header.gas_used)
        yield _gauge("labora_chain_prologue_gas", "Gas of its prologue.", self._prologue_gas)
        waiting = zip(("executable", "queued"), self._mempool.counts(), strict=True)
        yield _gauges("labora_mempool_transactions", "Transactions that wait.", "state", dict(waiting))

    def _peers(self) -> Iterator[Metric]:
        peers = self._network.peers()
        inbound = sum(peer.inbound for peer in peers)
        ways = {"inbound": inbound, "outbound": len(peers) - inbound}
        yield _gauge("ethereum_peer_count", "Connected peers.", len(peers))
        yield _gauge("ethereum_peer_limit", "Most of them.", PEERS_MAX)
        yield _gauges("labora_p2p_peers", "Connected peers, by who dialled.", "direction", ways)

    def _working(self) -> Iterator[Metric]:
        work, disputes = self._inference.status(), self._disputes.status()
        yield _gauge("labora_inference_num_requests_running", "Tasks that run together now.", work["running"])
        yield _gauge("labora_inference_num_requests_waiting", "Tasks that wait for a place.", work["waiting"])
        yield _counter("labora_inference_prompt_tokens", "Tokens of prompts given to models.", work["promptTokens"])
        yield _counter("labora_inference_generation_tokens", "Tokens that models made.", work["generatedTokens"])
        yield _counter("labora_inference_requests", "Tasks executed or checked.", work["tasksRun"])
        yield _gauge("labora_inference_workers", "Processes of models that are up.", work["workers"])
        yield _counter("labora_inference_worker_restarts", "Of processes that died.", work["workerRestarts"])
        models = GaugeMetricFamily(
            "labora_inference_model_up", "Models that this node should run: 1 runs, 0 cannot; labora_health says why.",
            labels=("model", "engine"),
        )  # fmt: skip
        for model, engine in work["engines"].items():
            models.add_metric((model, engine), float(engine != "starting"))
        for model in work["notServed"]:
            models.add_metric((model, ""), 0.0)
        yield models
        open_tasks = self._inference.open_tasks()
        statuses = {status.name.lower(): open_tasks[status] for status in OPEN}
        yield _gauges("labora_work_tasks", "Open tasks of the chain that this process heard of.", "status", statuses)
        yield _counter("labora_work_tasks_settled", "Tasks of the chain.", work["tasksSettled"])
        yield _gauge("labora_work_duties", "What this validator owes now.", work["duties"])
        for name, text, low, high, counts in (
            ("labora_work_missed", "Duties that this validator missed", 1, 31, work["missed"]),
            ("labora_work_refused", "Messages of it that the chain refused", 64, 127, work["refused"]),
            ("labora_work_slashes", "Slashes of it", 32, 63, work["slashed"]),
            ("labora_work_slashed_wei", "What they took", 32, 63, self._slashed_wei),
        ):
            yield by_reason(name, f"{text}, by reason; labora_reason_info says what to do.", low, high, counts)
        earned = CounterMetricFamily("labora_work_earned_wei", "What this validator was paid.", labels=("role",))
        for role in (*ROLES.values(), TOLERANT_ROLE, GAS_ROLE):
            earned.add_metric((role,), float(self._earned[role]))
        yield earned
        events = CounterMetricFamily("labora_disputes", "Events of the chain's disputes.", labels=("event",))
        for name in ("challenged", "refuted", "held", "slashed"):
            events.add_metric((name,), float(disputes[name]))
        yield events
        yield _gauge("labora_disputes_moves", "Moves in disputes that are this node's now.", disputes["moves"])
        advice = GaugeMetricFamily(
            "labora_reason_info", "What each reason means, and what to do about it.",
            labels=("reason", "meaning", "advice"),
        )  # fmt: skip
        for reason in Reason:
            advice.add_metric((reason.code, reason.text, reason.advice), 1.0)
        yield advice

    def _read(self) -> _State:
        reader, params, height = self._ledger.reader(), self._ledger.params, self._ledger.head.number + 1
        address = self._inference.operator
        operator = None if address is None else views.operator(reader, address, params, height)
        hot = 0 if operator is None else reader.balance(operator.hot)
        return _State(views.base_price(reader), len(views.open_disputes(reader)), operator, hot)

    def _of_state(self, state: _State) -> Iterator[Metric]:
        yield _gauge("labora_chain_base_price_wei", "Wei a CWU of a task posted now.", state.base_price)
        yield _gauge("labora_disputes_open", "Disputes that wait or run.", state.disputes)
        operator = state.operator
        if operator is None:
            return
        member = self._ledger.validator_set(self._ledger.head.number + 1).by_operator(operator.operator)
        dealt, missed = (sum(getattr(each, name) for each in operator.services) for name in ("dealt", "missed"))
        yield _gauge("labora_work_power", "Votes of this validator.", 0 if member is None else member.power)
        yield _gauge("labora_work_credit_cwu", "Its credit.", operator.credit / CWU)
        yield _gauge("labora_work_bond_wei", "Its bond.", operator.bond)
        yield _gauge("labora_work_delegated_wei", "What others put behind it.", operator.delegated)
        yield _gauge("labora_work_jailed", "1: it is jailed.", operator.jailed)
        yield _gauge("labora_work_epoch_dealt", "Tasks that it was dealt in this epoch.", dealt)
        yield _gauge("labora_work_epoch_missed", "Of them missed.", missed)
        yield _gauge("labora_work_hot_balance_wei", "Of the account that pays its messages' gas.", state.hot_balance)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, float(value))


def _gauges(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), float(value))
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, float(value))


def by_reason(name: str, text: str, low: int, high: int, counts: dict[str, int]) -> Metric:
    """Every reason of a range, those that did not happen with 0. counts: by code; what has no number is `other`."""
    found: Counter[Reason] = Counter()
    for code, count in counts.items():
        found[reason_of(code)] += count
    family = CounterMetricFamily(name, text, labels=("reason",))
    for reason in Reason:
        if low <= reason <= high or found[reason]:
            family.add_metric((reason.code,), float(found[reason]))
    return family
