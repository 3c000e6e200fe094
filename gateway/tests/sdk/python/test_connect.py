"""Authentication and expiry of connections."""

import asyncio
import json

import pytest
import websockets
from centrifuge import ClientState
from support.client import token_for, unique


async def test_a_client_with_a_token_is_connected_and_has_its_personal_channel(stack, clients):
    connection = await clients.connect(stack.gateway(1))
    assert "." in (await connection.events.get("connected")).client
    assert (await connection.events.get("subscribed")).channel == f"#{connection.user}"
    assert connection.client.state == ClientState.CONNECTED


async def test_an_expired_token_makes_the_client_fetch_a_new_one(stack, clients):
    user = unique("user")
    asked = []

    async def get_token():
        asked.append(user)
        return token_for(user)

    connection = clients.new(stack.gateway(1), user, token=token_for(user, seconds=-60), get_token=get_token)
    await connection.client.connect()
    await connection.events.get("connected")
    assert asked == [user]


async def test_a_token_is_refreshed_before_its_end_and_the_connection_lives_on(stack, clients):
    user = unique("user")
    asked = []

    async def get_token():
        asked.append(user)
        return token_for(user)

    url = stack.gateway(1)
    connection = clients.new(url, user, token=token_for(user, seconds=3), get_token=get_token)
    await connection.client.connect()
    await connection.events.get("connected")
    assert await close_code_without_refresh(url, token_for(user, seconds=3)) == 3005
    assert asked == [user]
    assert await connection.call("echo", "still here") == "still here"
    assert len(connection.events.all("connected")) == 1


async def close_code_without_refresh(url, token):
    """Returns how the gateway ends a connection that sends only the connect command. A later connection ends later."""
    async with asyncio.timeout(15), websockets.connect(url, proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"token": token}}))
        await socket.wait_closed()
        return socket.close_code


@pytest.mark.parametrize("token", [token_for("eve", secret="another secret, as long as the right one"), "not-a-token"])
async def test_an_invalid_token_ends_with_3500(stack, clients, token):
    connection = clients.new(stack.gateway(1), token=token)
    await connection.client.connect()
    disconnected = await connection.events.get("disconnected")
    assert (disconnected.code, disconnected.reason) == (3500, "invalid token")
    assert connection.events.all("connected") == []


async def test_a_client_without_a_token_is_refused(stack, clients):
    connection = clients.new(stack.gateway(1))
    await connection.client.connect()
    assert (await connection.events.get("disconnected")).code == 3501
    assert connection.events.all("connected") == []
