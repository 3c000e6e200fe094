"""Killed and draining gateways: clients reconnect and receive all later publications."""

import asyncio

from support.balancer import balance
from support.client import unique


async def test_after_a_gateways_kill_9_the_client_reconnects_and_receives_publications(stack, clients):
    channel = f"chat:{unique('room')}"
    async with balance(stack.gateway(1), stack.gateway(2)) as url:
        connection = await clients.connect(url)
        _, heard = await connection.subscribe(channel)
        first = await connection.events.get("connected")

        await asyncio.to_thread(stack.kill, "gateway-1")
        again = await connection.events.get("connected", count=2)
        assert again.client != first.client
        await heard.get("subscribed", count=2)

        await asyncio.to_thread(stack.publish, channel, "in the room")
        await asyncio.to_thread(stack.publish, f"#{connection.user}", "in person")
        await heard.get("publication")
        assert connection.values(heard) == ["in the room"]
        await connection.events.get("publication")
        assert connection.values(connection.events) == ["in person"]
        assert await connection.call("echo", "and asks") == "and asks"
        await asyncio.to_thread(stack.bring_up, "gateway-1")
        await connection.client.disconnect()


async def test_a_draining_gateway_closes_with_3001_and_its_clients_reconnect_elsewhere(stack, clients):
    channel = f"chat:{unique('room')}"
    async with balance(stack.gateway(1), stack.gateway(2)) as url:
        connection = await clients.connect(url)
        _, heard = await connection.subscribe(channel)

        ended = asyncio.create_task(asyncio.to_thread(stack.drain, "gateway-1"))
        moved = await connection.events.get("connecting", count=2)
        assert (moved.code, moved.reason) == (3001, "shutdown")
        await connection.events.get("connected", count=2)
        await heard.get("subscribed", count=2)
        await connection.publish(channel, "from the other gateway")
        await heard.get("publication")
        assert connection.values(heard) == ["from the other gateway"]

        await ended
        await asyncio.to_thread(stack.bring_up, "gateway-1")
        await connection.client.disconnect()
