"""Features for a client that reconnects to another gateway each time:
permissions, presence, and control by services."""

import pytest
from centrifuge import ClientState, SubscriptionState
from centrifuge.exceptions import ReplyError
from support.client import token_for, unique
from support.features import roaming
from support.service import service


async def refused(connection, channel):
    """Subscribes to a channel and returns the error code."""
    subscription, events = connection.new_subscription(channel)
    await subscription.subscribe()
    code = (await events.get("unsubscribed")).code
    connection.client.remove_subscription(subscription)
    return code


async def test_presence_joins_and_leaves_are_the_same_on_both_gateways(stack, clients):
    channel, user = f"room:{unique('presence')}", unique("user")
    token = token_for(user, info={"name": "Ada"})
    other = await clients.connect(stack.gateway(2))
    _, others = await other.subscribe(channel, join_leave=True)
    own = (await other.events.get("connected")).client

    def of(client):
        return lambda context: context.info.client == client

    async with roaming(stack, clients, user, token=token) as (connection, away):
        subscription, heard = await connection.subscribe(channel, join_leave=True)
        for number in (1, 2):
            client = (await connection.events.get("connected", count=number)).client
            await heard.get("subscribed", count=number)
            await heard.get("join", where=of(client))
            info = (await others.get("join", where=of(client))).info
            assert (info.user, other.protocol.value(info.conn_info)) == (user, {"name": "Ada"})
            there = (await subscription.presence()).clients
            assert {name: info.user for name, info in there.items()} == {own: other.user, client: user}
            stats = await other.client.presence_stats(channel)
            assert (stats.num_clients, stats.num_users) == (2, 2)
            async with away():
                await others.get("leave", where=of(client))


async def test_a_private_channel_is_recovered_with_a_fresh_token(stack, clients):
    channel, user = f"kept:${unique('room')}", unique("user")
    publisher = await clients.connect(stack.gateway(2), user)

    asked = []

    async def get_token(wanted):
        asked.append(wanted)
        return token_for(user, channel=wanted)

    async with roaming(stack, clients, user) as (connection, away):
        assert await refused(connection, channel) == 103
        expired = token_for(user, seconds=-60, channel=channel)
        _, heard = await connection.subscribe(channel, token=expired, get_token=get_token)
        assert asked == [channel]
        await publisher.subscribe(channel, token=token_for(user, channel=channel))
        async with away():
            await publisher.publish(channel, "missed")
        await heard.get("publication")
        assert connection.values(heard) == ["missed"]


async def test_a_channel_that_lists_users_is_open_to_them_only_and_recovers(stack, clients):
    ben, eve = [await clients.connect(stack.gateway(number)) for number in (1, 2)]
    async with roaming(stack, clients) as (ada, away):
        channel = f"dialogs:room#{ada.user},{ben.user}"
        _, heard = await ada.subscribe(channel)
        _, others = await ben.subscribe(channel)
        await ada.publish(channel, "from ada")
        async with away():
            await ben.publish(channel, "from ben")
        await heard.get("publication", count=2)
        await others.get("publication", count=2)
        assert ada.values(heard) == ben.values(others) == ["from ada", "from ben"]
        assert await refused(eve, channel) == 103
        with pytest.raises(ReplyError) as not_hers:
            await eve.publish(channel, 1)
        assert not_hers.value.code == 103


async def test_a_back_end_decides_about_subscriptions_and_publications(stack, clients):
    channels = [f"asked:{unique('room')}" for _ in range(2)]
    closed = {channels[1]}

    def may_receive(question):
        if question["channel"] in closed:
            return {"error": {"code": 1403, "message": "not here"}}
        return {"result": {"data": {"topic": "x"}}}

    def may_publish(question):
        if question["data"]["text"] == "rude":
            return {"error": {"code": 1400, "message": "no"}}
        return {"result": {"data": {**question["data"], "by": question["user"]}}}

    async with roaming(stack, clients) as (connection, away), service(stack) as back_end:
        await back_end.answer("subscribe", may_receive)
        await back_end.answer("publish", may_publish)
        _, heard = await connection.subscribe(channels[0])
        assert await refused(connection, channels[1]) == 1403
        for number in (1, 2):
            subscribed = await heard.get("subscribed", count=number)
            assert connection.protocol.value(subscribed.data) == {"topic": "x"}
            with pytest.raises(ReplyError) as rude:
                await connection.publish(channels[0], {"text": "rude"})
            assert rude.value.code == 1400
            await connection.publish(channels[0], {"text": "hi"})
            await heard.get("publication", count=number)
            if number == 2:
                closed.add(channels[0])
            async with away():
                pass
        assert (await heard.get("unsubscribed")).code == 1403
        assert connection.values(heard) == [{"text": "hi", "by": connection.user}] * 2
        assert connection.client.state == ClientState.CONNECTED


async def test_the_channels_of_a_token_are_subscribed_and_recovered(stack, clients):
    room, user = unique("room"), unique("user")
    token = token_for(user, subs={f"kept:{room}": {"data": {"role": "reader"}}})

    def own(context):
        return context.channel == f"kept:{room}"

    async with roaming(stack, clients, user, token=token) as (connection, away), service(stack) as back_end:
        subscribed = await connection.events.get("subscribed", where=own)
        assert subscribed.recoverable
        assert connection.protocol.value(subscribed.data) == {"role": "reader"}
        for number in (1, 2):
            await back_end.publish(f"tide.ch.kept.{room}", f"live {number}")
            await connection.events.get("publication", count=2 * number - 1)
            async with away():
                await back_end.publish(f"tide.ch.kept.{room}", f"missed {number}")
            again = await connection.events.get("subscribed", count=number + 1, where=own)
            assert (again.was_recovering, again.recovered) == (True, True)
            await connection.events.get("publication", count=2 * number)
        assert connection.values(connection.events) == ["live 1", "missed 1", "live 2", "missed 2"]


async def test_a_service_subscribes_and_unsubscribes_a_client(stack, clients):
    room = unique("room")
    channel = f"secret:{room}"

    def own(context):
        return context.channel == channel

    async with roaming(stack, clients) as (connection, away), service(stack) as back_end:
        events, whose = connection.events, {"user": connection.user, "channel": channel}
        for number in (1, 2):
            await back_end.order("subscribe", **whose, data={"role": "guest"})
            subscribed = await events.get("subscribed", count=2 * number - 1, where=own)
            assert connection.protocol.value(subscribed.data) == {"role": "guest"}
            await back_end.publish(f"tide.ch.secret.{room}", 1)
            await events.get("publication", count=number)
            await back_end.order("unsubscribe", **whose)
            await events.get("unsubscribed", count=2 * number - 1, where=own)
            # Such a subscription lasts as long as the connection.
            await back_end.order("subscribe", **whose)
            await events.get("subscribed", count=2 * number, where=own)
            async with away():
                pass
            await events.get("unsubscribed", count=2 * number, where=own)


async def test_a_service_ends_a_subscription_or_requires_a_fresh_token(stack, clients):
    open_to_all, private = f"chat:{unique('room')}", f"chat:${unique('room')}"
    async with roaming(stack, clients) as (connection, away), service(stack) as back_end:
        fetched = []

        async def get_token(channel):
            fetched.append(channel)
            return token_for(connection.user, channel=channel)

        subscription, left = await connection.subscribe(open_to_all)
        _, kept = await connection.subscribe(private, get_token=get_token)
        for number in (1, 2):
            await back_end.order("unsubscribe", user=connection.user, channel=open_to_all)
            assert (await left.get("unsubscribed", count=number)).code == 2000
            assert subscription.state == SubscriptionState.UNSUBSCRIBED
            await back_end.order("unsubscribe", user=connection.user, channel=private, code=2502)
            await kept.get("subscribed", count=2 * number)
            assert len(fetched) == number + 1
            async with away():
                await subscription.subscribe()
            await kept.get("subscribed", count=2 * number + 1)
            await left.get("subscribed", count=number + 1)


async def test_a_service_makes_a_client_reconnect_or_stay_away(stack, clients):
    user, fetched = unique("user"), []

    async def get_token():
        fetched.append(user)
        return token_for(user)

    other = await clients.connect(stack.gateway(1))
    async with roaming(stack, clients, user, token="", get_token=get_token) as (connection, away):
        _, heard = await connection.subscribe(f"kept:{unique('room')}")
        events = connection.events
        async with service(stack) as back_end:
            for number in (1, 2):
                come_again = {"code": 4100, "reason": "come again"}
                await back_end.order("disconnect", user=user, disconnect=come_again)
                assert (await events.get("connecting", count=3 * number - 1)).code == 4100
                assert (await heard.get("subscribed", count=3 * number - 1)).recovered
                assert len(fetched) == number
                await back_end.order("refresh", user=user)
                assert (await events.get("connecting", count=3 * number)).code == 3014
                await heard.get("subscribed", count=3 * number)
                assert len(fetched) == number + 1
                async with away():
                    pass
                assert (await heard.get("subscribed", count=3 * number + 1)).recovered
            await back_end.order("disconnect", user=user)
            ended = await events.get("disconnected")
            assert (ended.code, ended.reason) == (3503, "force disconnect")
            assert connection.client.state == ClientState.DISCONNECTED
            assert other.client.state == ClientState.CONNECTED
