"""Clients of the published SDK, for both of its protocols."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass

from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler

SECRET = "dev-secret-that-everybody-knows-0123456789"
LIMIT = 10
HOUR = 3600


@dataclass(frozen=True)
class Protocol:
    """Encoding and decoding of JSON values as payloads."""

    name: str
    use_protobuf: bool

    def payload(self, value):
        return json.dumps(value).encode() if self.use_protobuf else value

    def value(self, payload):
        return json.loads(payload) if self.use_protobuf else payload


PROTOCOLS = [Protocol("json", use_protobuf=False), Protocol("protobuf", use_protobuf=True)]


def unique(prefix):
    """A unique name."""
    return f"{prefix}-{secrets.token_hex(6)}"


def token_for(user, seconds=HOUR, secret=SECRET, **claims):
    """A connection token that expires after so many seconds; with the claim `channel` a subscription token."""

    def encode(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    now = int(time.time())
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": user, "iat": now, "exp": now + seconds, **claims}]
    signed = ".".join(encode(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{encode(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


class Events:
    """Recorded events, and waiting for them with a deadline."""

    def __init__(self):
        self._seen = []
        self._changed = asyncio.Condition()

    async def record(self, name, context):
        async with self._changed:
            self._seen.append((name, context))
            self._changed.notify_all()

    def all(self, name):
        """Every event of that name so far."""
        return [context for seen, context in self._seen if seen == name]

    async def get(self, name, count=1, limit=LIMIT, where=lambda _: True):
        """The `count`-th event of that name, from 1, which may be in the past. With a predicate only matching events count."""

        def found():
            return [context for context in self.all(name) if where(context)]

        try:
            async with asyncio.timeout(limit), self._changed:
                await self._changed.wait_for(lambda: len(found()) >= count)
        except TimeoutError:
            raise AssertionError(f"no {name} within {limit} s; there were {self._seen}") from None
        return found()[count - 1]


def _recording(handler):
    """Creates a handler that records every event."""

    class Recording(handler):
        def __init__(self):
            self.events = Events()

    def recorder(name):
        async def record(self, context):
            await self.events.record(name, context)

        return record

    for method in vars(handler):
        if method.startswith("on_"):
            setattr(Recording, method, recorder(method.removeprefix("on_")))
    return Recording


ClientRecorder = _recording(ClientEventHandler)
SubscriptionRecorder = _recording(SubscriptionEventHandler)


class Connection:
    """A client with its recorded events."""

    def __init__(self, protocol, url, user, **options):
        handler = ClientRecorder()
        self.protocol = protocol
        self.user = user
        self.events = handler.events
        self.client = Client(url, events=handler, use_protobuf=protocol.use_protobuf, proxy=None, **options)

    async def call(self, method, value):
        """The answer to an rpc."""
        return self.protocol.value((await self.client.rpc(method, self.protocol.payload(value))).data)

    async def publish(self, channel, value):
        await self.client.publish(channel, self.protocol.payload(value))

    async def subscribe(self, channel, **options):
        """Subscribes and returns the events of the active subscription."""
        subscription, events = self.new_subscription(channel, **options)
        await subscription.subscribe()
        await events.get("subscribed")
        return subscription, events

    def new_subscription(self, channel, **options):
        handler = SubscriptionRecorder()
        return self.client.new_subscription(channel, events=handler, **options), handler.events

    def values(self, events):
        """The payloads of all publications so far."""
        return [self.protocol.value(context.pub.data) for context in events.all("publication")]


class Clients:
    """Creates clients and disconnects them at the end."""

    def __init__(self, protocol):
        self.protocol = protocol
        self._made = []

    def new(self, url, user=None, **options):
        """A client that is not connected yet."""
        connection = Connection(self.protocol, url, user, **options)
        self._made.append(connection.client)
        return connection

    async def connect(self, url, user=None, **options):
        """A connected client, with its own user unless one is given."""
        user = user or unique("user")
        connection = self.new(url, user, **{"token": token_for(user), **options})
        await connection.client.connect()
        await connection.events.get("connected")
        return connection

    async def end(self):
        for client in self._made:
            await client.disconnect()
