"""What the tests of features need: a client that roams, and a service beside it."""

from contextlib import asynccontextmanager

from support.balancer import take_turns


@asynccontextmanager
async def roaming(stack, clients, user=None, **options):
    """A client that comes to another gateway every time it connects, and how to cut it off."""
    async with take_turns(stack.gateway(1), stack.gateway(2)) as balancer:
        connection = await clients.connect(balancer.url, user, **options)
        yield connection, balancer.away
        await connection.client.disconnect()
