"""A service that uses NATS directly."""

import json
from contextlib import asynccontextmanager

import nats


class Service:
    """Publications, commands and hook decisions of a service."""

    def __init__(self, connection):
        self._connection = connection

    async def publish(self, subject, value, **tags):
        """Returns when it is stored."""
        headers = {f"Tide-Tag-{name}": tag for name, tag in tags.items()}
        await self._connection.request(subject, json.dumps(value).encode(), timeout=10, headers=headers or None)

    async def order(self, method, **body):
        """Sends a command to the gateways without waiting for an answer."""
        await self._connection.publish(f"tide.ctl.{method}", json.dumps(body).encode())

    async def answer(self, event, decide):
        """Answers the gateways' hook questions while the service is connected."""

        async def respond(question):
            await question.respond(json.dumps(decide(json.loads(question.data))).encode())

        await self._connection.subscribe(f"tide.hook.{event}", cb=respond)
        await self._connection.flush()


@asynccontextmanager
async def service(stack):
    connection = await nats.connect(stack.service_url(), inbox_prefix=b"_INBOX_service")
    try:
        yield Service(connection)
    finally:
        await connection.close()
