"""Runs every program of the documents against a running stack."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

from support.client import unique

ROOT = Path(__file__).parents[4]
PUBLISHING = ROOT / "docs" / "publish-from-your-service.md"
SERVER_API = ROOT / "docs" / "server-api.md"
NODE_MODULES = ROOT / "gateway" / "tests" / "sdk" / "js" / "node_modules"


def programs(language, page=PUBLISHING):
    """The page's programs in a language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"no {language} in {page.name}"
    return found


async def run(*command, nats):
    environment = {**os.environ, "NATS_URL": nats}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, error.decode()
    return out.decode()


async def heard_from(clients, stack, command, program):
    """Runs a program in its own room and returns its output and the publications that a client of the room received."""
    room = unique("lobby")
    client = await clients.connect(stack.gateway(1))
    _, events = await client.subscribe(f"chat:{room}")
    program = program.replace("tide.ch.chat.lobby", f"tide.ch.chat.{room}")
    program = re.sub(r"order-\d-shipped", room, program)
    printed = await run(*command(program), nats=stack.service_url())
    publication = await events.get("publication")
    return printed, client.protocol.value(publication.pub.data)


async def test_the_python_program_publishes_and_is_acknowledged(stack, clients):
    printed, data = await heard_from(clients, stack, lambda text: (sys.executable, "-c", text), programs("python")[0])
    assert "TIDE_CH_chat" in printed
    assert data == {"text": "hi from Python"}


async def test_the_node_program_publishes_and_is_acknowledged(stack, clients, tmp_path):
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)

    def command(text):
        (tmp_path / "publish.mjs").write_text(text)
        return "node", str(tmp_path / "publish.mjs")

    printed, data = await heard_from(clients, stack, command, programs("js")[0])
    assert "TIDE_CH_chat" in printed
    assert data == {"text": "hi from Node"}


async def test_the_curl_lines_publish_end_connections_and_fetch_the_document(stack, clients):
    publish, disconnect, document = programs("sh", SERVER_API)[0].splitlines()
    assert all(line.startswith("curl ") for line in (publish, disconnect, document))
    room, user = unique("lobby"), unique("user")
    client = await clients.connect(stack.gateway(1), user)
    _, events = await client.subscribe(f"chat:{room}")

    async def typed(line):
        line = line.replace("http://127.0.0.1:9000/api", stack.api(2))
        return json.loads(await run("sh", "-c", line, nats=stack.service_url()))

    said = await typed(publish.replace("chat:lobby", f"chat:{room}"))
    assert said["result"].keys() == {"offset", "epoch"}
    publication = await events.get("publication")
    assert client.protocol.value(publication.pub.data) == {"text": "hi"}
    assert await typed(disconnect.replace('"42"', f'"{user}"')) == {"result": {}}
    assert (await client.events.get("disconnected")).code == 3503
    assert (await typed(document))["openapi"].startswith("3.1")


def test_the_encoding_of_names_is_that_of_the_gateway():
    said = {}
    exec(programs("python")[1], said)
    vectors = json.loads((ROOT / "shared" / "tests" / "it" / "tokens.json").read_text())
    assert vectors
    for name, token in vectors.items():
        assert said["token"](name) == token
