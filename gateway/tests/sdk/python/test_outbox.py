"""The relay of `examples/outbox` with a real PostgreSQL: every row that was committed becomes one request."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from support.postgres import Postgres

OUTBOX = Path(__file__).parents[4] / "examples" / "outbox"
LIMIT = 60
LOOK_AGAIN = 0.02
INSERT = "INSERT INTO outbox (method, data, user_id) VALUES (%s, %s, %s) RETURNING id"


@pytest.fixture
def database():
    with Postgres() as postgres, psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute((OUTBOX / "schema.sql").read_text())
        connection.url = postgres.url
        yield connection


def eventually(what, check):
    deadline = time.monotonic() + LIMIT
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(LOOK_AGAIN)


def call(api, method, params):
    request = urllib.request.Request(f"{api}/{method}", json.dumps(params).encode(), {"X-API-Key": "dev-api-key"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


@contextmanager
def relay(database, api):
    """A relay that runs; it is killed in the end."""
    environment = {**os.environ, "DATABASE_URL": database.url, "TIDEGATE_API": api}
    process = subprocess.Popen([sys.executable, OUTBOX / "relay.py"], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def between(api, then=lambda: None):
    """An address in front of a gateway's server API. `then` is called after the gateway's answer and before the relay has it.

    Gives the address and the calls: what was asked and what was answered."""
    calls = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answered = call(api, self.path.rsplit("/", 1)[-1], asked)
            calls.append((asked, answered))
            then()
            body = json.dumps(answered).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api", calls
        server.shutdown()


def insert(database, data, method="later.echo", user="outbox"):
    return str(database.execute(INSERT, [method, json.dumps(data), user]).fetchone()[0])


def is_empty(database):
    return database.execute("SELECT count(*) FROM outbox WHERE error IS NULL").fetchone()[0] == 0


def job(api, key, method="later.echo", user="outbox"):
    return call(api, "job", {"method": method, "key": key, "user": user})["result"]


def test_a_row_becomes_a_request_when_its_transaction_commits_and_never_if_it_is_rolled_back(stack, database):
    with relay(database, stack.api(1)):
        with psycopg.connect(database.url) as other:
            rolled_back = insert(other, {"n": 1})
            other.rollback()
            committed = insert(other, {"n": 2})
            assert job(stack.api(2), committed)["state"] == "unknown", "its transaction is open"
            other.commit()
        eventually("it is answered", lambda: job(stack.api(2), committed)["state"] == "answered")
        assert job(stack.api(2), committed)["data"] == {"n": 2}
        eventually("its row is gone", lambda: is_empty(database))
        assert job(stack.api(2), rolled_back)["state"] == "unknown"


def test_a_relay_that_is_killed_between_enqueue_and_delete_enqueues_nothing_twice(stack, database):
    key = insert(database, {"n": 1})
    killed = threading.Event()
    with between(stack.api(1), killed.set) as (api, calls):
        with relay(database, api) as process:
            assert killed.wait(LIMIT), "the gateway has the request"
            process.kill()
            process.wait()
        assert not is_empty(database), "the row is still there"
        with relay(database, api):
            eventually("the next relay removes it", lambda: is_empty(database))
    assert [asked["key"] for asked, _ in calls] == [key, key]
    assert [answered["result"]["duplicate"] for _, answered in calls] == [False, True]
    assert calls[0][1]["result"]["id"] == calls[1][1]["result"]["id"]
    eventually("it is answered", lambda: job(stack.api(2), key)["state"] == "answered")


def test_two_relays_share_the_rows_and_a_row_that_is_refused_holds_nothing_up(stack, database):
    refused = insert(database, 1, method="no.such.method")
    keys = [insert(database, number) for number in range(50)]
    with between(stack.api(1)) as (first, some), between(stack.api(2)) as (second, others):
        with relay(database, first), relay(database, second):
            more = [insert(database, number) for number in range(50)]
            eventually("all rows are handed on", lambda: is_empty(database))
    asked = [asked["key"] for asked, _ in [*some, *others]]
    assert sorted(key for key in asked if key != refused) == sorted(keys + more), "each once"
    left = database.execute("SELECT id, error FROM outbox").fetchall()
    assert len(left) == 1 and str(left[0][0]) == refused and "no route takes" in left[0][1]
