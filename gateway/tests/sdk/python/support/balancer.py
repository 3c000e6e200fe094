"""What stands before gateways in production: one address, behind it whichever gateway accepts a connection."""

import asyncio
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


@asynccontextmanager
async def balance(*urls):
    """Gives the one address. A new connection goes to the first of `urls` that accepts it."""
    backends = [urlsplit(url) for url in urls]
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            for backend in backends:
                with suppress(OSError):
                    upstream = await asyncio.open_connection(backend.hostname, backend.port)
                    await _forward((reader, writer), upstream)
                    return
        finally:
            writer.close()
            tasks.discard(asyncio.current_task())

    server = await asyncio.start_server(serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}{backends[0].path}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
