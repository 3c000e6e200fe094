"""What a client can rely on, though each time it comes back it finds itself on another gateway."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from centrifuge import DeltaType, StreamPosition
from support.balancer import take_turns
from support.client import token_for, unique


@asynccontextmanager
async def roaming(stack, clients, user=None):
    """A client that comes to another gateway every time it connects, and how to cut it off."""
    async with take_turns(stack.gateway(1), stack.gateway(2)) as balancer:
        connection = await clients.connect(balancer.url, user)
        yield connection, balancer.away
        await connection.client.disconnect()


async def test_what_was_missed_comes_after_every_break_in_order_and_once(stack, clients):
    channel = f"kept:{unique('room')}"
    publisher = await clients.connect(stack.gateway(2))
    async with roaming(stack, clients) as (connection, away):
        _, heard = await connection.subscribe(channel)
        for number in (1, 2, 3):
            await publisher.publish(channel, f"live {number}")
            await heard.get("publication", count=2 * number - 1)
            async with away():
                await publisher.publish(channel, f"missed {number}")
                await asyncio.to_thread(stack.publish, f"#{connection.user}", f"in person {number}")
            again = await heard.get("subscribed", count=number + 1)
            assert (again.was_recovering, again.recovered) == (True, True)
            await heard.get("publication", count=2 * number)
            await connection.events.get("publication", count=number)
        expected = [f"{when} {number}" for number in (1, 2, 3) for when in ("live", "missed")]
        assert connection.values(heard) == expected
        assert connection.values(connection.events) == [f"in person {number}" for number in (1, 2, 3)]
        gateways = [context.client.split(".")[0] for context in connection.events.all("connected")]
        assert all(one != next_one for one, next_one in zip(gateways, gateways[1:], strict=False))


async def test_past_publications_can_be_read(stack, clients):
    async with roaming(stack, clients) as (connection, away):
        channel = f"kept:{unique('room')}"
        subscription, events = await connection.subscribe(channel)
        for number in range(5):
            await connection.publish(channel, number)

        async def read(**options):
            result = await subscription.history(**options)
            return [connection.protocol.value(pub.data) for pub in result.publications]

        for number in (1, 2):
            assert await read(limit=10) == [0, 1, 2, 3, 4]
            assert await read(limit=2, reverse=True) == [4, 3]
            top = await subscription.history()
            assert top.publications == []
            since = StreamPosition(offset=top.offset - 1, epoch=top.epoch)
            assert await read(limit=10, since=since) == [4]
            async with away():
                pass
            await events.get("subscribed", count=number + 1)


async def test_patches_come_out_as_what_was_published_those_of_what_was_missed_too(stack, clients):
    channel = f"kept:{unique('room')}"
    publisher = await clients.connect(stack.gateway(2))
    texts = [{"match": "Sharks against Whales, quarter final, second leg", "score": n} for n in range(6)]
    async with roaming(stack, clients) as (connection, away):
        _, heard = await connection.subscribe(channel, delta=DeltaType.FOSSIL)
        for text in texts[:2]:
            await publisher.publish(channel, text)
        await heard.get("publication", count=2)
        async with away():
            for text in texts[2:4]:
                await publisher.publish(channel, text)
        await heard.get("publication", count=4)
        for text in texts[4:]:
            await publisher.publish(channel, text)
        await heard.get("publication", count=6)
        assert connection.values(heard) == texts


async def test_a_private_channel_is_recovered_with_a_fresh_token(stack, clients):
    channel, user = f"kept:${unique('room')}", unique("user")
    publisher = await clients.connect(stack.gateway(2), user)

    asked = []

    async def get_token(wanted):
        asked.append(wanted)
        return token_for(user, channel=wanted)

    async with roaming(stack, clients, user) as (connection, away):
        expired = token_for(user, seconds=-60, channel=channel)
        _, heard = await connection.subscribe(channel, token=expired, get_token=get_token)
        assert asked == [channel]
        async with away():
            await publisher.publish(channel, "missed")
        await heard.get("publication")
        assert connection.values(heard) == ["missed"]


@pytest.mark.parametrize("where", [1, 2])
async def test_an_answer_that_comes_while_the_client_is_away_is_there_when_it_is_back(stack, clients, where):
    user = unique("user")
    elsewhere = await clients.connect(stack.gateway(where), user)
    async with roaming(stack, clients, user) as (connection, away):
        assert await connection.call("echo", "at once") == "at once"
        first = await connection.call("later.echo", "later")
        await connection.events.get("publication")
        async with away():
            second = await elsewhere.call("later.echo", "meanwhile")
            await elsewhere.events.get("publication", count=2)
        answer = await connection.events.get("publication", count=2)
        assert connection.values(connection.events) == ["later", "meanwhile"]
        assert answer.pub.tags["re"] == second["id"] != first["id"]
        assert await connection.call("echo", "on the other gateway") == "on the other gateway"
