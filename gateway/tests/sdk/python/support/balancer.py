"""A load balancer, as in production: one address, and behind it any gateway that accepts a connection."""

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Balancer:
    """One address in front of several gateways."""

    def __init__(self, urls, first):
        self._backends = [urlsplit(url) for url in urls]
        self._first = first
        self._tasks = set()
        self._closed = False

    async def _listen(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}{self._backends[0].path}"

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            if self._closed:
                return
            first = next(self._first) % len(self._backends)
            for backend in self._backends[first:] + self._backends[:first]:
                with suppress(OSError):
                    upstream = await asyncio.open_connection(backend.hostname, backend.port)
                    await _forward((reader, writer), upstream)
                    return
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _cut(self):
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def away(self):
        """Inside the block all connections are cut and no new one is accepted."""
        self._closed = True
        await self._cut()
        try:
            yield
        finally:
            self._closed = False

    async def _end(self):
        self._server.close()
        await self._cut()


@asynccontextmanager
async def balance(*urls):
    """Gives the one address. A new connection goes to the first of `urls` that accepts it."""
    async with _balancer(urls, itertools.repeat(0)) as balancer:
        yield balancer.url


def take_turns(*urls):
    """Gives a balancer whose connections take turns at `urls`."""
    return _balancer(urls, itertools.count())


@asynccontextmanager
async def _balancer(urls, first):
    balancer = Balancer(urls, first)
    await balancer._listen()
    try:
        yield balancer
    finally:
        await balancer._end()


async def _forward(client, upstream):
    """Copies both ways until either side ends."""
    copies = [
        asyncio.create_task(_copy(client[0], upstream[1])),
        asyncio.create_task(_copy(upstream[0], client[1])),
    ]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        upstream[1].close()


async def _copy(reader, writer):
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
