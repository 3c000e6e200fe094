"""Channels whose newest publication is all that counts."""

import asyncio

from support.client import unique


async def test_who_comes_back_gets_the_newest_publication_only(stack, clients):
    channel = f"score:{unique('match')}"
    connection = await clients.connect(stack.gateway(1))
    _, events = await connection.subscribe(channel)
    _, seen = await (await clients.connect(stack.gateway(1))).subscribe(channel)
    await asyncio.to_thread(stack.publish, channel, 0)
    await events.get("publication")
    await connection.client.disconnect()
    for number in (1, 2, 3):
        await asyncio.to_thread(stack.publish, channel, number)
    await seen.get("publication", count=4)
    await connection.client.connect()
    again = await events.get("subscribed", count=2)
    assert again.was_recovering and again.recovered
    await events.get("publication", count=2)
    await asyncio.to_thread(stack.publish, channel, 4)
    await events.get("publication", count=3)
    assert connection.values(events) == [0, 3, 4]


async def test_a_board_shows_its_newest_publication_to_every_subscriber(stack, clients):
    channel = f"board:{unique('board')}"
    for number in (1, 2):
        await asyncio.to_thread(stack.publish, channel, number)
    connection = await clients.connect(stack.gateway(2))
    _, events = await connection.subscribe(channel)
    assert (await events.get("subscribed")).recovered
    await events.get("publication")
    assert connection.values(events) == [2]
