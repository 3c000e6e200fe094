"""Channels: subscribing, publishing, and what services publish."""

import asyncio

import pytest
from centrifuge import SubscriptionState
from centrifuge.exceptions import ReplyError
from support.client import unique


async def test_a_publication_reaches_subscribers_on_both_gateways_with_its_publisher(stack, clients):
    channel = f"chat:{unique('room')}"
    here = await clients.connect(stack.gateway(1))
    there = await clients.connect(stack.gateway(2))
    heard = [(await connection.subscribe(channel))[1] for connection in (here, there)]
    await here.publish(channel, {"text": "hi"})
    for events in heard:
        publication = (await events.get("publication")).pub
        assert here.protocol.value(publication.data) == {"text": "hi"}
        assert publication.info.user == here.user
        assert publication.info.client == (await here.events.get("connected")).client


async def test_publications_of_one_client_arrive_in_the_order_they_were_sent(stack, clients):
    channel = f"chat:{unique('room')}"
    sender = await clients.connect(stack.gateway(1))
    receiver = await clients.connect(stack.gateway(2))
    _, heard = await receiver.subscribe(channel)
    await asyncio.gather(*(sender.publish(channel, number) for number in range(50)))
    await heard.get("publication", count=50)
    assert receiver.values(heard) == list(range(50))


@pytest.mark.parametrize(("channel", "code"), [("news:today", 103), ("#somebody-else", 103), ("nowhere:x", 102)])
async def test_a_publish_that_is_not_allowed_is_refused(stack, clients, channel, code):
    connection = await clients.connect(stack.gateway(1))
    with pytest.raises(ReplyError) as refused:
        await connection.publish(channel, 1)
    assert refused.value.code == code


@pytest.mark.parametrize(("channel", "code"), [("secret:x", 103), ("#somebody-else", 103), ("nowhere:x", 102)])
async def test_a_subscription_that_is_not_allowed_ends_unsubscribed(stack, clients, channel, code):
    connection = await clients.connect(stack.gateway(1))
    subscription, events = connection.new_subscription(channel)
    await subscription.subscribe()
    assert (await events.get("unsubscribed")).code == code
    assert subscription.state == SubscriptionState.UNSUBSCRIBED


async def test_after_a_burst_of_subscribes_and_unsubscribes_the_last_call_decides(stack, clients):
    channel = f"chat:{unique('room')}"
    connection = await clients.connect(stack.gateway(1))
    other = await clients.connect(stack.gateway(2))
    subscription, events = connection.new_subscription(channel)
    for _ in range(10):
        await subscription.subscribe()
        await subscription.unsubscribe()
    await subscription.subscribe()
    await subscription.ready()
    await other.publish(channel, "once")
    await other.publish(channel, "and no more")
    await events.get("publication", count=2)
    assert connection.values(events) == ["once", "and no more"]
    assert len(connection.events.all("connected")) == 1


async def test_a_service_publishes_in_a_channel(stack, clients):
    channel = f"news:{unique('room')}"
    connection = await clients.connect(stack.gateway(1))
    _, events = await connection.subscribe(channel)
    await asyncio.to_thread(stack.publish, channel, {"flood": True})
    publication = (await events.get("publication")).pub
    assert connection.protocol.value(publication.data) == {"flood": True}
    assert publication.info is None


async def test_a_service_reaches_every_connection_of_one_user_and_no_other(stack, clients):
    user = unique("user")
    connections = [await clients.connect(stack.gateway(number), user) for number in (1, 2)]
    stranger = await clients.connect(stack.gateway(1))
    await asyncio.to_thread(stack.publish, f"#{user}", "for one")
    await asyncio.to_thread(stack.publish, f"#{stranger.user}", "for the other")
    for connection in connections:
        publication = await connection.events.get("publication")
        assert publication.channel == f"#{user}"
        assert connection.protocol.value(publication.pub.data) == "for one"
    await stranger.events.get("publication")
    assert stranger.values(stranger.events) == ["for the other"]
