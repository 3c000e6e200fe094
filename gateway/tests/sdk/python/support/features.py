"""Support for the feature tests: a roaming client and a service."""

from contextlib import asynccontextmanager

from support.balancer import take_turns


@asynccontextmanager
async def roaming(stack, clients, user=None, **options):
    """A client that reaches another gateway with every connect, and a balancer that can cut it off."""
    async with take_turns(stack.gateway(1), stack.gateway(2)) as balancer:
        connection = await clients.connect(balancer.url, user, **options)
        yield connection, balancer.away
        await connection.client.disconnect()
