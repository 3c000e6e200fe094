"""Runs coroutines as tests, on one stack, once for each protocol."""

import asyncio
import inspect
import signal

import pytest
from support.client import PROTOCOLS, Clients
from support.stack import Stack

TEST_LIMIT = 90

# SIGTERM ends the stack too, as Ctrl-C does.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a coroutine; the clients it made are disconnected in the same loop, however it ends."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def run():
        try:
            await asyncio.wait_for(pyfuncitem.obj(**arguments), TEST_LIMIT)
        finally:
            if "clients" in arguments:
                await arguments["clients"].end()

    asyncio.run(run())
    return True


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(params=PROTOCOLS, ids=lambda protocol: protocol.name)
def clients(request):
    """Creates clients of one protocol."""
    return Clients(request.param)
