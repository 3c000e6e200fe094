"""The server API through the published server library: requests go to one gateway, clients are on the other."""

import asyncio

import pytest
from cent import (
    BatchRequest,
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    ChannelsRequest,
    Client,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)
from centrifuge import ClientState, SubscriptionState
from support.client import unique

KEY = "dev-api-key"


@pytest.fixture
def api(stack):
    client = Client(stack.api(2), api_key=KEY)
    yield client
    client.close()


async def ask(method, request):
    """Calls the blocking library in a thread, so that the test's clients keep running."""
    return await asyncio.to_thread(method, request)


async def test_a_publication_reaches_clients_and_is_stored_once_for_each_key(stack, clients, api):
    channel = f"kept:{unique('room')}"
    connection = await clients.connect(stack.gateway(1))
    _, heard = await connection.subscribe(channel)
    message = PublishRequest(channel=channel, data={"n": 1}, tags={"lang": "en"}, idempotency_key=unique("key"))
    first = await ask(api.publish, message)
    assert await ask(api.publish, message) == first
    assert first.offset > 0
    await ask(api.broadcast, BroadcastRequest(channels=[channel, f"#{connection.user}"], data={"n": 2}))
    publication = (await heard.get("publication")).pub
    assert publication.tags == {"lang": "en"}
    await heard.get("publication", count=2)
    assert connection.values(heard) == [{"n": 1}, {"n": 2}]
    personal = (await connection.events.get("publication")).pub
    assert connection.protocol.value(personal.data) == {"n": 2}
    broadcast = await ask(api.broadcast, BroadcastRequest(channels=[channel, "nowhere:x"], data=3))
    assert broadcast.responses[0].result.epoch == first.epoch
    assert broadcast.responses[1].error.code == 102


async def test_history_is_read_from_a_position_and_removed(stack, clients, api):
    channel = f"kept:{unique('room')}"
    connection = await clients.connect(stack.gateway(1))
    subscription, heard = await connection.subscribe(channel)
    published = [await ask(api.publish, PublishRequest(channel=channel, data={"n": n})) for n in range(3)]
    since = StreamPosition(offset=published[0].offset, epoch=published[0].epoch)
    page = await ask(api.history, HistoryRequest(channel=channel, limit=10, since=since))
    assert [publication.data for publication in page.publications] == [{"n": 1}, {"n": 2}]
    assert page.offset == published[-1].offset
    await heard.get("publication", count=3)
    await ask(api.history_remove, HistoryRemoveRequest(channel=channel))
    assert (await ask(api.history, HistoryRequest(channel=channel, limit=-1))).publications == []
    # The client returns with a position from before the removal.
    await connection.client.disconnect()
    await connection.client.connect()
    assert not (await heard.get("subscribed", count=2)).recovered
    await ask(api.publish, PublishRequest(channel=channel, data={"n": 3}))
    await heard.get("publication", count=4)


async def test_the_figures_cover_every_gateway(stack, clients, api):
    channel = f"chat:{unique('room')}"
    for number in (1, 2):
        await (await clients.connect(stack.gateway(number))).subscribe(channel)
    channels = await ask(api.channels, ChannelsRequest(pattern=f"{channel[:-1]}*"))
    assert {name: facts.num_clients for name, facts in channels.channels.items()} == {channel: 2}
    nodes = (await ask(api.info, InfoRequest())).nodes
    assert len(nodes) == 2
    assert all(node.num_clients >= 1 and node.num_channels >= 1 and node.version for node in nodes)


async def test_presence_is_served(stack, clients, api):
    channel = f"room:{unique('room')}"
    made = [await clients.connect(stack.gateway(number)) for number in (1, 2)]
    for connection in made:
        await connection.subscribe(channel)
    present = (await ask(api.presence, PresenceRequest(channel=channel))).presence
    assert {info.user for info in present.values()} == {connection.user for connection in made}
    stats = await ask(api.presence_stats, PresenceStatsRequest(channel=channel))
    assert (stats.num_clients, stats.num_users) == (2, 2)


async def test_a_service_controls_connections_and_subscriptions(stack, clients, api):
    connection = await clients.connect(stack.gateway(1))
    channel = f"secret:{unique('room')}"
    await ask(api.subscribe, SubscribeRequest(user=connection.user, channel=channel, data={"role": "guest"}))
    subscribed = await connection.events.get("subscribed", count=2)
    assert subscribed.channel == channel
    await ask(api.publish, PublishRequest(channel=channel, data={"n": 1}))
    publication = await connection.events.get("publication")
    assert connection.protocol.value(publication.pub.data) == {"n": 1}
    await ask(api.unsubscribe, UnsubscribeRequest(user=connection.user, channel=channel))
    assert (await connection.events.get("unsubscribed")).channel == channel

    own = f"chat:{unique('room')}"
    subscription, heard = await connection.subscribe(own)
    await ask(api.unsubscribe, UnsubscribeRequest(user=connection.user, channel=own))
    assert (await heard.get("unsubscribed")).code == 2000
    assert subscription.state == SubscriptionState.UNSUBSCRIBED

    end = Disconnect(code=4500, reason="account closed")
    await ask(api.disconnect, DisconnectRequest(user=connection.user, disconnect=end))
    ended = await connection.events.get("disconnected")
    assert (ended.code, ended.reason) == (4500, "account closed")
    assert connection.client.state == ClientState.DISCONNECTED


async def test_a_connection_that_is_made_to_expire_reconnects(stack, clients, api):
    connection = await clients.connect(stack.gateway(1))
    await ask(api.refresh, RefreshRequest(user=connection.user, expired=True))
    assert (await connection.events.get("connecting", count=2)).code == 3005
    await connection.events.get("connected", count=2)


async def test_each_command_of_a_batch_has_its_own_answer(stack, clients, api):
    connection = await clients.connect(stack.gateway(1))
    channel = f"kept:{unique('room')}"
    _, heard = await connection.subscribe(channel)
    commands = [
        PublishRequest(channel=channel, data=1),
        BroadcastRequest(channels=[channel], data=2),
        ChannelsRequest(pattern=channel),
        DisconnectRequest(user=unique("nobody")),
    ]
    published, broadcast, channels, _ = (await ask(api.batch, BatchRequest(requests=commands))).replies
    assert published.offset < broadcast.responses[0].result.offset
    assert channels.channels[channel].num_clients == 1
    await heard.get("publication", count=2)
    assert connection.values(heard) == [1, 2]


def test_errors_are_the_librarys_own(stack, api):
    with pytest.raises(CentApiResponseError) as refused:
        api.publish(PublishRequest(channel="nowhere:x", data=1))
    assert refused.value.code == 102
    for request, method in [(PresenceRequest, api.presence), (PresenceStatsRequest, api.presence_stats)]:
        with pytest.raises(CentApiResponseError) as refused:
            method(request(channel="chat:x"))
        assert refused.value.code == 108
    stranger = Client(stack.api(1), api_key="guessed")
    with pytest.raises(CentUnauthorizedError):
        stranger.info(InfoRequest())
    stranger.close()
