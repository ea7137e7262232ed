"""The consensus service over real sockets, logs and signers: agreement, crashes, lost logs."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import trio
from cluster_of_nodes import LocalNode, make_cluster

from genesis.keys import ACCOUNT_ADDRESSES, ACCOUNT_KEYS
from node.wal import segments
from primitives.transaction import sign_transaction

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
