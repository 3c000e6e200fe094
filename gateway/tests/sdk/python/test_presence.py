"""Presence: members, joins and leaves."""

import asyncio

import pytest
from centrifuge.exceptions import ReplyError
from support.client import unique


async def test_presence_and_its_figures_are_the_same_on_both_gateways(stack, clients):
    channel = f"room:{unique('presence')}"
    here = await clients.connect(stack.gateway(1))
    there = await clients.connect(stack.gateway(2))
    again = await clients.connect(stack.gateway(2), here.user)
    assert (await there.client.presence(channel)).clients == {}
    stats = await there.client.presence_stats(channel)
    assert (stats.num_clients, stats.num_users) == (0, 0)
    for connection in (here, there, again):
        subscription, _ = await connection.subscribe(channel)
        own = (await connection.events.get("connected")).client
        assert (await subscription.presence()).clients[own].user == connection.user
    for connection in (here, there):
        assert len((await connection.client.presence(channel)).clients) == 3
        stats = await connection.client.presence_stats(channel)
        assert (stats.num_clients, stats.num_users) == (3, 2)


async def test_a_subscriber_gets_joins_and_leaves_its_own_join_first(stack, clients):
    channel = f"room:{unique('presence')}"
    here = await clients.connect(stack.gateway(1))
    there = await clients.connect(stack.gateway(2))
    subscription, heard = here.new_subscription(channel, join_leave=True)
    await subscription.subscribe()
    assert (await heard.get("join")).info.user == here.user
    _, silent = await there.subscribe(channel)
    await heard.get("join", count=2)
    await there.client.disconnect()
    left = (await heard.get("leave")).info
    assert [context.info.user for context in heard.all("join")] == [here.user, there.user]
    assert (left.user, left.client) == (there.user, (await there.events.get("connected")).client)
    assert silent.all("join") == []


async def test_a_burst_of_subscribes_and_unsubscribes_leaves_no_members_behind(stack, clients):
    channel = f"room:{unique('presence')}"
    connection = await clients.connect(stack.gateway(1))
    other = await clients.connect(stack.gateway(2))
    subscription, _ = connection.new_subscription(channel)
    for _ in range(10):
        await subscription.subscribe()
        await subscription.unsubscribe()
    await subscription.subscribe()
    await subscription.ready()
    assert (await other.client.presence_stats(channel)).num_clients == 1
    await subscription.unsubscribe()
    while (await other.client.presence_stats(channel)).num_clients:
        await asyncio.sleep(0)
    assert len(connection.events.all("connected")) == 1


@pytest.mark.parametrize(("channel", "code"), [("chat:x", 108), ("veiled:x", 103), ("nowhere:x", 102)])
async def test_presence_that_is_off_or_not_allowed_is_refused(stack, clients, channel, code):
    connection = await clients.connect(stack.gateway(1))
    for ask in (connection.client.presence, connection.client.presence_stats):
        with pytest.raises(ReplyError) as refused:
            await ask(channel)
        assert refused.value.code == code
