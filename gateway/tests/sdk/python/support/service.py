"""Another service: anything that can speak to NATS."""

import json
from contextlib import asynccontextmanager

import nats


class Service:
    """What services publish, order and decide."""

    def __init__(self, connection):
        self._connection = connection

    async def publish(self, subject, value, **tags):
        """Returns when it is stored."""
        headers = {f"Tide-Tag-{name}": tag for name, tag in tags.items()}
        await self._connection.request(subject, json.dumps(value).encode(), timeout=10, headers=headers or None)

    async def order(self, method, **body):
        """Tells the gateways, without waiting for an answer."""
        await self._connection.publish(f"tide.ctl.{method}", json.dumps(body).encode())

    async def answer(self, event, decide):
        """Answers what the gateways ask, as long as the service is there."""

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
