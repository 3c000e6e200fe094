"""Runs every program of the documents against a running stack."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.client import token_for, unique
from support.reader import COMMANDS, Reader, blocks
from support.stack import CONFIG, TIDEGATE

ROOT = Path(__file__).parents[4]
DOCS = ROOT / "docs"
PUBLISHING = DOCS / "publish-from-your-service.md"
SERVER_API = DOCS / "server-api.md"
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
    _, events = await client.subscribe(f"kept:{room}")
    program = program.replace("tide.ch.chat.lobby", f"tide.ch.kept.{room}")
    program = re.sub(r"order-\d-shipped", room, program)
    printed = await run(*command(program), nats=stack.service_url())
    publication = await events.get("publication")
    return printed, client.protocol.value(publication.pub.data)


async def test_the_python_program_publishes_and_is_acknowledged(stack, clients):
    printed, data = await heard_from(clients, stack, lambda text: (sys.executable, "-c", text), programs("python")[0])
    assert "TIDE_CH_kept" in printed
    assert data == {"text": "hi from Python"}


async def test_the_node_program_publishes_and_is_acknowledged(stack, clients, tmp_path):
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)

    def command(text):
        (tmp_path / "publish.mjs").write_text(text)
        return "node", str(tmp_path / "publish.mjs")

    printed, data = await heard_from(clients, stack, command, programs("js")[0])
    assert "TIDE_CH_kept" in printed
    assert data == {"text": "hi from Node"}


def with_nats_command(directory):
    """Puts the `nats` command of the documents into a directory, and returns the PATH with it."""
    directory.mkdir(exist_ok=True)
    (directory / "nats").write_text(COMMANDS["nats"])
    (directory / "nats").chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


async def test_the_shell_lines_publish_and_are_acknowledged(stack, clients, tmp_path):
    path = with_nats_command(tmp_path / "bin")

    def command(text):
        return "env", f"PATH={path}", "sh", "-e", "-c", text.replace("greeting-1", unique("greeting"))

    printed, data = await heard_from(clients, stack, command, programs("sh")[0])
    assert "TIDE_CH_kept" in printed
    assert data == {"text": "hi"}


async def test_the_server_api_over_nats_answers_and_ends_connections(stack, clients, tmp_path):
    block = programs("sh", SERVER_API)[1]
    user = unique("user")
    client = await clients.connect(stack.gateway(1), user)
    block = block.replace("nats://service:dev-service@127.0.0.1:4222", stack.service_url())
    block = block.replace('"#42"', f'"#{user}"').replace('"42"', f'"{user}"')
    path = with_nats_command(tmp_path / "bin")
    printed = await run("env", f"PATH={path}", "sh", "-e", "-c", block, nats=stack.service_url())
    assert "result" in json.loads(printed)
    assert (await client.events.get("disconnected")).code == 3503


async def test_a_client_that_only_listens_gets_the_line_that_the_page_promises(stack):
    (line,) = programs("sh", DOCS / "transports.md")
    gateway = stack.gateway(1).replace("ws://", "http://").removesuffix("/connection/websocket")
    line = line.replace("http://127.0.0.1:8000", gateway).replace("…", token_for("7")).strip()
    listening = await asyncio.create_subprocess_exec("sh", "-c", f"exec {line} -s", stdout=asyncio.subprocess.PIPE)
    try:
        first = json.loads(await asyncio.wait_for(listening.stdout.readline(), 30))
    finally:
        listening.kill()
        await listening.wait()
    assert first["connect"]["subs"].keys() >= {"chat:lobby"}


async def test_the_accounts_are_printed_and_the_user_of_operators_lists_the_streams(stack, tmp_path):
    accounts, streams = programs("sh", DOCS / "nats-permissions.md")
    tidegate = Path(TIDEGATE).parent
    printed = await run("env", f"PATH={tidegate}:{os.environ['PATH']}", "sh", "-e", "-c", accounts, nats="")
    assert "accounts {" in printed and "TIDEGATE_OPS" in printed
    streams = streams.replace("127.0.0.1:4222", urlsplit(stack.service_url()).netloc.split("@")[1])
    path = with_nats_command(tmp_path / "bin")
    listed = await run("env", f"PATH={path}", "sh", "-e", "-c", streams, nats="")
    assert {"TIDE_IN_echo", "TIDE_REPLY", "TIDE_DEAD"} <= {line.split()[0] for line in listed.splitlines()}


async def typed(stack, tmp_path, block):
    """What the lines of a page print for an operator of this stack."""
    path = f"{Path(TIDEGATE).parent}:{with_nats_command(tmp_path / 'bin')}"
    block = block.replace("nats://service:dev-service@127.0.0.1:4222", stack.service_url())
    block = block.replace("http://127.0.0.1:9000/api", stack.api(1))
    broker = "nats://" + urlsplit(stack.service_url()).netloc.split("@")[1]
    settings = [f"PATH={path}", f"TIDEGATE_CONFIG={CONFIG}", f"TIDEGATE_NATS__URL={broker}"]
    return await run("env", *settings, "sh", "-e", "-c", block, nats=stack.service_url())


def answers(printed):
    """The JSON texts of an output, with or without lines between them."""
    found = []
    while printed := printed.strip():
        answer, end = json.JSONDecoder().raw_decode(printed)
        found.append(answer)
        printed = printed[end:]
    return found


async def test_the_lines_about_jobs_store_requests_and_show_what_has_become_of_one(stack, tmp_path):
    user = unique("user")
    enqueue, show = (block.replace('"42"', f'"{user}"') for block in programs("sh", DOCS / "jobs.md"))
    stored = answers(await typed(stack, tmp_path, enqueue))
    assert len(stored) == 3 and all((answer.get("result") or answer)["id"] for answer in stored), stored
    show = show.replace("--user 42", f"--user {user}")
    shown = answers(await typed(stack, tmp_path, show))
    assert {(job.get("result") or job)["id"] for job in shown} == {stored[0]["result"]["id"]}, shown


async def test_the_lines_about_schedules_set_list_show_and_remove_them(stack, tmp_path):
    schedules, publication = programs("sh", DOCS / "schedules.md")
    curl, tick, cleanup, *listed, shown, removed = answers(await typed(stack, tmp_path, schedules))
    outcomes = [answer["outcome"] for answer in (curl["result"], tick.get("result") or tick, cleanup)]
    assert outcomes == ["created"] * 3
    assert [schedule["name"] for schedule in listed] == ["nightly report", "tick", "cleanup"]
    assert shown["time_zone"] == "Europe/Berlin" and removed == {"removed": True}
    published, page = answers(await typed(stack, tmp_path, publication))
    waiting = published["result"]["schedule"]
    assert page["result"]["schedules"][-1]["name"] == waiting
    remove = f"tidegate schedule rm {waiting}; tidegate schedule rm cleanup; tidegate schedule rm 'nightly report'"
    await typed(stack, tmp_path, remove)


async def test_the_lines_about_routes_list_pause_and_resume_one(stack, tmp_path):
    (lines,) = programs("sh", DOCS / "order.md")
    listed = await typed(stack, tmp_path, lines)
    assert "greet" in listed and "echo" in listed
    assert "paused" not in (await typed(stack, tmp_path, "tidegate route ls")).split("greet")[1].splitlines()[0]


# What a configuration of production takes from the environment.
PRODUCTION = dict.fromkeys(
    ["TIDEGATE_AUTH__HMAC_SECRET", "TIDEGATE_API__KEY"]
    + [f"TIDEGATE_NATS__{user}__PASSWORD" for user in ("GATEWAY", "WORKER", "PURGER", "SERVICE", "SETUP", "OPS")],
    "a secret of a test, which is long enough",
)


def test_every_configuration_in_the_documents_can_be_used(tmp_path):
    tried = 0
    for page in sorted(DOCS.glob("*.md")):
        for block in blocks(page.read_text()):
            if block.language == "toml":
                (tmp_path / "tidegate.toml").write_text(block.text)
                # The secrets that these blocks take from files and from the environment.
                for file in re.findall(r'^hmac_secret_file = "([^"]+)"', block.text, re.MULTILINE):
                    (tmp_path / file).parent.mkdir(exist_ok=True)
                    (tmp_path / file).write_text(PRODUCTION["TIDEGATE_AUTH__HMAC_SECRET"])
                named = re.findall(r"env:([A-Z_]+)", block.text)
                secrets = dict.fromkeys(named, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") | {"NOTES_DATABASE": "sqlite:notes.db"}
                if 'env = "production"' in block.text:
                    secrets |= PRODUCTION
                environment = os.environ | secrets
                subprocess.run(
                    [TIDEGATE, "check-config"], cwd=tmp_path, env=environment, check=True, capture_output=True
                )
                tried += 1
    assert tried >= 3


# The blocks that no test of this file runs, with the reason.
NOT_RUN = {
    ("deploy.md", "sh"): "it takes containers, root or a cluster; deploy/tests runs what they start",
    ("deploy-guide.md", "sh"): "it takes three hosts, root and a certificate",
    ("deploy-guide.md", "conf"): "parts of nats.conf and of the kernel's configuration",
    ("deploy-guide.md", "ini"): "a unit of systemd",
    ("deploy-guide.md", "nginx"): "a configuration of nginx, which is not needed to build or test",
    ("deploy-guide.md", "caddy"): "the same for Caddy",
    ("troubleshooting.md", "sh"): "it looks at a deployment with its ports; what it calls has tests of its own",
    ("deploy-guide.md", "haproxy"): "the same for HAProxy",
    ("metrics.md", "yaml"): "a part of a Kubernetes manifest",
    ("worker-contract.md", "sh"): "cli/tests/it/conformance.rs runs the tool",
    ("security-testing.md", "sh"): "fuzzing takes minutes, and the runner of conformance is for one platform",
    ("publish-from-your-service.md", "go"): "Go is not needed to build or test",
    ("jobs.md", "rust"): "a part of a program; worker/tests/it/follow_up.rs is the whole",
    ("schedules.md", "rust"): "a part of a program; worker/tests/it/schedule.rs is the whole",
    ("outbox.md", "sh"): "test_outbox.py runs the relay",
    ("outbox.md", "sql"): "it needs the reader's own table; test_outbox.py inserts rows too",
    ("channels.md", "rust"): "a part of a program; worker/tests and the stock handler `room` are the whole",
    ("performance.md", "sh"): "benchmarks take minutes; trial/tests/it runs them small",
    ("transports.md", "js"): "parts of programs; gateway/tests/sdk/js/transports.test.js and event-source.test.js are the whole",
}
RUN = {
    ("publish-from-your-service.md", "sh"): 1,
    ("publish-from-your-service.md", "python"): 2,
    ("publish-from-your-service.md", "js"): 1,
    ("server-api.md", "sh"): 2,
    ("nats-permissions.md", "sh"): 2,
    ("transports.md", "sh"): 1,
    ("jobs.md", "sh"): 2,
    ("order.md", "sh"): 1,
    ("schedules.md", "sh"): 2,
}


def test_every_block_of_the_documents_is_run_or_has_a_reason_why_not():
    found = {}
    for page in DOCS.glob("*.md"):
        for block in blocks(page.read_text()):
            if block.language != "toml":
                found[page.name, block.language] = found.get((page.name, block.language), 0) + 1
    assert {key: count for key, count in found.items() if key not in NOT_RUN} == RUN
    assert found.keys() >= NOT_RUN.keys()


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "app.localhost"])
def test_the_chat_page_works_in_a_real_browser_from_any_address_of_this_machine(stack, tmp_path, host):
    page = (ROOT / "examples" / "browser" / "index.html").read_text()
    assert page.count("ws://127.0.0.1:8000/connection/websocket") == 1
    page = page.replace("ws://127.0.0.1:8000/connection/websocket", stack.gateway(1))
    (tmp_path / "index.html").write_text(page)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    text = unique("from a browser")
    inputs = [
        ["connect", "token", token_for("7"), "subscribed to chat:lobby"],
        ["publish", "text", text, f'chat:lobby {{"text":"{text}"}}'],
    ]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = ROOT / "gateway" / "tests" / "sdk" / "js" / "support" / "browser.js"
        url = f"http://{host}:{server.server_port}/"
        environment = {**os.environ, "BROWSER": BROWSER, "URL": url, "INPUTS": json.dumps(inputs)}
        ended = subprocess.run(["node", script], env=environment, capture_output=True, text=True, timeout=80)
        server.shutdown()
    assert ended.returncode == 0, ended.stdout + ended.stderr


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


def test_the_readme_works_word_by_word_in_its_order(tmp_path):
    page = (ROOT / "README.md").read_text()
    demo, up, source, greet, install, client, run, *publishing, browser, afterwards, tests = blocks(page)
    assert tests.text == "make test\n"
    with Reader(tmp_path) as reader:
        assert "lost               0" in reader.type(demo, limit=180)
        stack = reader.start(up)
        stack.says("Tidegate is up")
        assert source.text == (ROOT / "worker" / "examples" / "greet.rs").read_text().split("\n\n", 1)[1]
        reader.start(greet, TIDEGATE_WORKER__INTERNAL=f"127.0.0.1:{reader.ports[9109]}").says("worker starting")
        reader.type(install)
        reader.save(client)
        for greeting in ("Good morning", "Good evening"):
            (reader.home / client.file).write_text(
                (reader.home / client.file).read_text().replace("Good morning", greeting)
            )
            listening = reader.start(run)
            listening.says(f"greet: {greeting}, 42!")
            listening.says("subscribed to chat:lobby")
        assert len(publishing) == 3
        for count, block in enumerate(publishing, 1):
            reader.type(block)
            listening.says("chat:lobby { text: 'hi' }\n" * count)
        reader.start(browser).says("Serving HTTP")
        origin = f"http://127.0.0.1:{reader.ports[5173]}"
        assert f"Open {origin.replace(str(reader.ports[5173]), '5173')} " in page
        with urllib.request.urlopen(f"{origin}/", timeout=10) as response:
            html = response.read().decode()
        inputs = [
            ["connect", "token", token_for("7"), "subscribed to chat:lobby"],
            ["publish", "text", "from the page", 'chat:lobby {"text":"from the page"}'],
        ]
        reader.open(html, origin, json.dumps(inputs)).says("from the page")
        listening.says("from the page")
        assert "killed worker-" in reader.type(afterwards)
        assert stack.process.wait(30) == 0


def test_without_a_token_the_readmes_client_says_what_to_set(tmp_path):
    client = next(block for block in blocks((ROOT / "README.md").read_text()) if block.language == "js")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / Path(client.file).name).write_text(client.text)
    environment = {name: value for name, value in os.environ.items() if name != "TOKEN"}
    command = ["node", tmp_path / Path(client.file).name]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 1
    assert "set TOKEN: target/release/tidegate token" in ended.stderr


def test_nothing_is_compiled_twice_for_the_demo_the_stack_and_the_example():
    said = {
        target: subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for target in ("demo", "up", "greet")
    }
    built = {line for text in said.values() for line in text.splitlines() if line.startswith("cargo ")}
    assert len(built) == 1, said
    assert all("cargo " in text and "target/release/" in text for text in said.values())
    assert "cargo run" not in (ROOT / "README.md").read_text()
