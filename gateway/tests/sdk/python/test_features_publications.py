"""Features for a client that reconnects to another gateway each time:
publications, recovery, history and answers."""

import asyncio

import pytest
from centrifuge import DeltaType, Filter, StreamPosition
from support.client import unique
from support.features import roaming
from support.service import service


async def test_missed_publications_arrive_after_every_disconnect_in_order_and_once(stack, clients):
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


async def test_history_can_be_read(stack, clients):
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


async def test_deltas_decode_to_the_published_payloads_live_and_recovered(stack, clients):
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


async def test_a_tags_filter_applies_live_and_after_recovery(stack, clients):
    room = unique("room")
    async with roaming(stack, clients) as (connection, away), service(stack) as back_end:
        _, heard = await connection.subscribe(f"kept:{room}", tags_filter=Filter.eq("kind", "goal"))

        async def play(*kinds):
            for kind in kinds:
                await back_end.publish(f"tide.ch.kept.{room}", kind, kind=kind.split()[0])

        await play("foul 1", "goal 2")
        await heard.get("publication")
        async with away():
            await play("goal 3", "foul 4", "goal 5")
        await heard.get("publication", count=3)
        await play("foul 6", "goal 7")
        await heard.get("publication", count=4)
        assert connection.values(heard) == ["goal 2", "goal 3", "goal 5", "goal 7"]


async def test_with_cache_recovery_new_and_returning_clients_get_the_newest_publication_only(stack, clients):
    room = unique("match")
    async with roaming(stack, clients) as (connection, away), service(stack) as back_end:
        _, heard = await connection.subscribe(f"score:{room}")
        await back_end.publish(f"tide.ch.score.{room}", 0)
        await heard.get("publication")
        async with away():
            for score in (1, 2, 3):
                await back_end.publish(f"tide.ch.score.{room}", score)
        again = await heard.get("subscribed", count=2)
        assert (again.was_recovering, again.recovered) == (True, True)
        await heard.get("publication", count=2)
        async with away():
            pass
        assert (await heard.get("subscribed", count=3)).recovered
        await back_end.publish(f"tide.ch.score.{room}", 4)
        await heard.get("publication", count=3)
        assert connection.values(heard) == [0, 3, 4], "what it had was not sent again"

        for text in (1, 2):
            await back_end.publish(f"tide.ch.board.{room}", text)
        _, shown = await connection.subscribe(f"board:{room}")
        assert (await shown.get("subscribed")).recovered
        await shown.get("publication")
        assert connection.values(shown) == [2]


@pytest.mark.parametrize("namespace", ["chat", "debate"])
async def test_clients_receive_each_others_publications_direct_and_by_a_worker(stack, clients, namespace):
    channel = f"{namespace}:{unique('room')}"
    other = await clients.connect(stack.gateway(2))
    _, others = await other.subscribe(channel)
    async with roaming(stack, clients) as (connection, away):
        _, heard = await connection.subscribe(channel)
        for number in (1, 2):
            await other.publish(channel, "to the roamer")
            assert (await heard.get("publication", count=2 * number - 1)).pub.info.user == other.user
            await connection.publish(channel, "from the roamer")
            await heard.get("publication", count=2 * number)
            told = (await others.get("publication", count=2 * number)).pub
            client = connection.events.all("connected")[-1].client
            assert (told.info.user, told.info.client) == (connection.user, client)
            async with away():
                pass
            await heard.get("subscribed", count=number + 1)
        assert connection.values(heard) == other.values(others) == ["to the roamer", "from the roamer"] * 2


@pytest.mark.parametrize("where", [1, 2])
async def test_a_later_answer_is_recovered_after_a_disconnect(stack, clients, where):
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
