"""The consensus service over real sockets, logs and signers: agreement, crashes, lost logs."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from cluster_of_nodes import LocalNode, make_cluster

from chain.builder import BuildRequest
from chain.mempool import Mempool
from consensus.bft.inputs import BlockChecked, decode_input
from consensus.bft.proposer import ProposerSchedule
from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS
from node.consensus import Payload
from node.host import NodeHost
from node.replay import RecordKind
from node.wal import _scan, segments
from p2p.network import Network, NetworkConfig
from primitives.block import Block, decode_block
from primitives.transaction import sign_transaction
from primitives.vote import CommitCertificate, Status, Step, encode_message

DEADLINE_SECONDS = 90.0


def in_trio(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await scenario()

    trio.run(bounded)


async def all_reach(nodes: list[LocalNode], height: int) -> None:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.reach, height)


def assert_one_chain(nodes: list[LocalNode], height: int) -> None:
    blocks = [node.ledger.block(height) for node in nodes]
    assert None not in blocks
    assert len({block.hash for block in blocks if block}) == 1
    for node in nodes:
        assert node.consensus.figures.evidence == 0


def test_four_nodes_agree_and_a_transaction_reaches_every_ledger(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            for node in nodes:
                await stack.enter_async_context(node.running())
            await all_reach(nodes, 3)
            sent = sign_transaction(
                ACCOUNT_KEYS[0], chain_id=31337, nonce=0, gas=21_000, to=ACCOUNT_ADDRESSES[1], value=7,
                max_fee_per_gas=10**10, max_priority_fee_per_gas=10**9,
            )  # fmt: skip
            nodes[2].host.submit(sent.raw)
            while any(node.ledger.find_transaction(sent.hash) is None for node in nodes):
                await all_reach(nodes, min(node.head for node in nodes) + 1)
            height = min(node.head for node in nodes)
            assert_one_chain(nodes, height)
            before = 10_000 * 10**18
            assert all(node.ledger.reader().balance(ACCOUNT_ADDRESSES[1]) == before + 7 for node in nodes)
            assert len(segments(nodes[0].folder / "wal")) <= 2, "the log keeps one height"

    in_trio(scenario)


def test_three_go_on_without_the_fourth_which_catches_up_and_votes_again(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            for node in nodes[:3]:
                await stack.enter_async_context(node.running())
            async with nodes[3].running():
                await all_reach(nodes, 3)
            stopped_at = nodes[3].head
            await all_reach(nodes[:3], stopped_at + 6)
            async with nodes[3].running():
                await nodes[3].reach(stopped_at + 6)
                await all_reach(nodes, max(node.head for node in nodes) + 4)
                assert_one_chain(nodes, stopped_at + 6)
                own = nodes[3].signer
                assert own.state.height > stopped_at + 6, "it signs again"

    in_trio(scenario)


def test_a_chain_stopped_whole_goes_on_from_the_last_block(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        for lives in range(3):
            async with AsyncExitStack() as stack:
                heads = [node.head if lives else 0 for node in nodes]
                for node in nodes:
                    await stack.enter_async_context(node.running())
                await all_reach(nodes, max(heads) + 3)
                assert_one_chain(nodes, max(heads) + 2)

    in_trio(scenario)


def test_a_single_validator_survives_a_crash_at_any_moment(tmp_path: Path) -> None:
    (node,) = make_cluster(tmp_path, 1)

    async def scenario() -> None:
        for life in range(8):
            async with node.running():
                target = node.head + 1 + life % 2
                await node.reach(target)
                for _ in range(life * 3):
                    await trio.lowlevel.checkpoint()
            assert node.signer.state.height >= target

    in_trio(scenario)


def test_a_node_that_lost_its_log_is_silent_for_that_height_alone(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            for node in nodes[:3]:
                await stack.enter_async_context(node.running())
            async with nodes[3].running():
                await all_reach(nodes, 3)
            for path in segments(nodes[3].folder / "wal"):
                path.unlink()
            async with nodes[3].running():
                abandoned = nodes[3].signer.state.abandoned
                assert abandoned >= 3
                assert (nodes[3].folder / "wal.lost-1").exists()
                await all_reach(nodes, max(node.head for node in nodes) + 3)
                assert nodes[3].signer.state.height > abandoned
                assert_one_chain(nodes, 3)

    in_trio(scenario)


def test_a_follower_without_keys_to_vote_follows(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            for node in nodes:
                await stack.enter_async_context(node.running(votes=node.index != 3))
            await all_reach(nodes, 4)
            assert_one_chain(nodes, 4)
            assert nodes[3].signer.state.height == 0

    in_trio(scenario)


def test_a_block_that_a_node_stands_behind_is_in_its_log_and_served_after_a_crash(tmp_path: Path) -> None:
    """A crash of all must not lose the body of a block on which a quorum may be locked."""
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        async with nodes[0].running():
            first = nodes[0].ledger.validator_set(1)
            proposer = ProposerSchedule(first, *nodes[0].ledger.proposer_seed(1)).proposer(1, 0)
        author, voter, other, _ = sorted(nodes, key=lambda node: node.keys.operator_address != proposer)
        async with author.running(), voter.running():  # no quorum: height 1 stays open
            while not standing_behind(voter):
                await trio.testing.wait_all_tasks_blocked(0.05)
        (block_hash,) = standing_behind(voter)
        async with voter.running(), other.running():
            await other.network.fetch_block(block_hash)

    def standing_behind(node: LocalNode) -> set[bytes]:
        """Blocks that it found valid, all of whose bodies its log holds."""
        records = [record for path in segments(node.folder / "wal") for record, _ in _scan(path.read_bytes())]
        inputs = [decode_input(record.payload) for record in records if record.kind == RecordKind.INPUT]
        valid = {event.block_hash for event in inputs if isinstance(event, BlockChecked) and event.valid}
        assert valid <= {decode_block(record.payload).hash for record in records if record.kind == RecordKind.BODY}
        return valid

    in_trio(scenario)


def test_what_anybody_may_send_does_not_grow_the_log(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        async with nodes[0].running() as node:
            while not node.consensus.core.height:
                await trio.testing.wait_all_tasks_blocked(0.05)
            for round_ in range(500):
                node.network.consensus.put("ab" * 32, encode_message(Status(1, round_, Step.PROPOSE, 0, 0)))
            while len(node.network.consensus):
                await trio.testing.wait_all_tasks_blocked(0.05)
            (segment,) = segments(node.folder / "wal")
            assert len(_scan(segment.read_bytes())) < 100

    in_trio(scenario)


def test_a_height_of_very_many_rounds_still_takes_bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = make_cluster(tmp_path, 1)
    monkeypatch.setattr("node.consensus.BLOCKS_MAX", 8)

    async def scenario() -> None:
        async with node.running():
            await node.reach(1)
            consensus, head = node.consensus, node.ledger.head
            old = [replace(head, header=replace(head.header, number=head.number + 1, gas_used=n)) for n in range(8)]
            new = replace(head, header=replace(head.header, number=head.number + 1, gas_used=99))
            consensus._blocks.update({block.hash: block for block in old})
            await consensus._on_block(new)
            assert new.hash in consensus._blocks and len(consensus._blocks) <= 8

    in_trio(scenario)


def test_a_build_that_the_head_overtook_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = make_cluster(tmp_path, 1)

    async def scenario() -> None:
        async with node.running():
            await node.reach(1)
            build = node.ledger.build

            def overtaken(request: BuildRequest, source: Mempool) -> Block:
                monkeypatch.setattr(node.ledger, "build", build)
                return build(replace(request, time_ms=node.ledger.head.sidecar.time_ms), source)

            monkeypatch.setattr(node.ledger, "build", overtaken)
            await node.reach(4)  # after the round in which nothing was built

    in_trio(scenario)


def test_commits_are_sent_again_to_one_peer_at_a_bounded_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = make_cluster(tmp_path, 1)
    monkeypatch.setattr("node.consensus.COMMITS_RESENT_MAX", 3)
    monkeypatch.setattr("node.consensus.COMMIT_RESEND_SECONDS", 60.0)
    sent: list[str] = []

    async def scenario() -> None:
        async with node.running():
            await node.reach(5)
            monkeypatch.setattr(node.network, "send", lambda peer, payload: sent.append(peer))
            for height in (1, 1, 2, 3, 4, 5):
                await node.consensus._send_commit("aa" * 32, height)
            await node.consensus._send_commit("bb" * 32, 5)
            assert sent == ["aa" * 32] * 3 + ["bb" * 32]

    in_trio(scenario)


def test_a_peer_that_claims_what_it_does_not_have_makes_no_node_look_outdated(tmp_path: Path) -> None:
    (node,) = make_cluster(tmp_path, 1)
    node.peers = ()

    async def scenario() -> None:
        async with node.running():
            await node.reach(1)
            liar_config = NetworkConfig(b"\x07" * 32, 31337, node.ledger.genesis_hash)
            liar = Network(liar_config, NodeHost(node.ledger, node.mempool, node.consensus.decoder))
            async with trio.open_nursery() as nursery:
                await nursery.start(liar.run)
                liar.set_head(10**9, 10**9 - 1)  # far above what anybody asks it for
                await liar.dial(f"{node.network.id}@127.0.0.1:{node.port}")
                while not node.sync.behind:
                    await node.reach(node.head + 1)
                while node.sync.catching_up:
                    await node.reach(node.head + 1)
                nursery.cancel_scope.cancel()

    in_trio(scenario)


def test_one_peer_cannot_have_any_number_of_large_certificates_checked(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, 4)

    async def scenario() -> None:
        async with nodes[0].running() as node:
            while not node.consensus.core.height:
                await trio.testing.wait_all_tasks_blocked(0.05)
            signatures = tuple(bytes([n]) * 65 for n in range(128))
            certificate = encode_message(CommitCertificate(9, 0, bytes(32), b"\xff" * 16, signatures))
            judged: list[bytes] = []
            to_input = node.consensus.decoder.to_input
            node.consensus.decoder.to_input = lambda data, *rest: (judged.append(data), to_input(data, *rest))[1]
            for peer in ("aa" * 32, "bb" * 32):
                for _ in range(200):
                    await node.consensus._take(Payload(peer, certificate, 0))
            assert 80 <= len(judged) < 120

    in_trio(scenario)
