"""The owner's door: own items first, peers wait for room."""

import trio
import trio.testing

from node.inbox import PEER_ITEMS_MAX, Inbox


def test_own_items_go_first_and_in_order() -> None:
    async def scenario() -> None:
        inbox: Inbox[str, str] = Inbox()
        await inbox.give("peer")
        inbox.put("own 1")
        inbox.put("own 2")
        assert [await inbox.get() for _ in range(3)] == ["own 1", "own 2", "peer"]

    trio.run(scenario)


def test_a_flood_waits_and_loses_nothing() -> None:
    async def scenario() -> None:
        inbox: Inbox[str, int] = Inbox()
        count = 5 * PEER_ITEMS_MAX
        given = 0

        async def flood() -> None:
            nonlocal given
            for number in range(count):
                await inbox.give(number)
                given += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.testing.wait_all_tasks_blocked()
            assert given == PEER_ITEMS_MAX
            assert [await inbox.get() for _ in range(count)] == list(range(count))

    trio.run(scenario)


def test_the_reader_wakes_for_either() -> None:
    async def scenario() -> None:
        inbox: Inbox[str, str] = Inbox()
        got = []

        async def read() -> None:
            for _ in range(2):
                got.append(await inbox.get())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            inbox.put("own")
            await trio.testing.wait_all_tasks_blocked()
            await inbox.give("peer")
        assert got == ["own", "peer"]

    trio.run(scenario)
