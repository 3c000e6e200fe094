"""A worker of one Tidegate route: version 1 of docs/worker-contract.md, step by step. Your handlers are in worker.py."""

import asyncio
import base64
import hashlib
import os
import random
import signal
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import nats
from nats.errors import NoRespondersError, TimeoutError as NatsTimeout
from nats.js.errors import APIError, NotFoundError

URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
USER = os.environ.get("NATS_USER", "worker")
PASSWORD = os.environ.get("NATS_PASSWORD", "dev-worker")
PREFIX = os.environ.get("TIDE_PREFIX", "tide")
ROUTE = os.environ.get("TIDE_ROUTE", "conformance")
SERVICE = os.environ.get("TIDE_SERVICE", "default")
MAX_ATTEMPTS = int(os.environ.get("TIDE_MAX_ATTEMPTS", "5"))
CONCURRENCY = int(os.environ.get("TIDE_CONCURRENCY", "32"))
TIMEOUT = 30.0  # one attempt, in seconds: the route's `timeout`
ANSWER_TIMEOUT = 4.0  # how long a caller waits: gateway.answer_timeout
ANSWER_MAX_BYTES = 256 * 1024  # the longest answer that is stored: streams.answer_max_bytes
BACKOFF_BASE, BACKOFF_CAP = 0.3, 600.0
DRAIN = 25.0
DEAD_LETTER = 1004


class Reject(Exception):
    """The caller gets this error; the request is not tried again."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class TooLarge(Exception):
    """The answer is longer than may be stored or sent."""


@dataclass
class Answer:
    headers: dict
    body: bytes


class Request:
    """One delivered message, read."""

    def __init__(self, msg):
        headers = msg.headers or {}
        self.msg, self.body, self.headers = msg, msg.data, headers
        self.own = {k: v for k, v in headers.items() if not k.lower().startswith("nats-")}
        self.id = headers.get("Tide-Id", "")
        self.user = headers.get("Tide-User")
        self.is_cancelled = False
        self.parked = msg.metadata.stream == "TIDE_PARK"
        self.place = ("p" if self.parked else "i") + str(msg.metadata.sequence.stream)
        self.lost = msg.metadata.num_delivered - 1
        # 1: its worker ended once, 2: twice, so it is tried alone. Only then a lost delivery counts, the first excepted.
        self.suspect = number(headers.get("Tide-Suspect"))
        self.attempt = number(headers.get("Tide-Attempt")) + (max(0, self.lost - 1) if self.suspect == 2 else 0)
        self.exposed = self.suspect == 2 and self.lost > 0  # one more loss counts as an attempt
        self.keyed = self.id.startswith("k.")
        self.later = "Tide-Later" in headers
        self.is_stored = self.keyed or self.later
        self.is_awaited = "Tide-Method" in headers
        self.accepted_at = number(headers.get("Tide-Accepted-At")) / 1000

    def readable(self):
        parts = self.id.split(".")
        return len(parts) == 2 and all(p and p.replace("_", "").replace("-", "").isalnum() for p in parts)

    def due(self):
        """The subject of the next delivery: the address is the same, the stage is `due`."""
        return f"{PREFIX}.due." + self.msg.subject.removeprefix(f"{PREFIX}.").split(".", 1)[1]

    def answer(self, body):
        return Answer(self._answer_headers({"Tide-Status": "ok"}), body)

    def error(self, code, message):
        message = " ".join(message.split())[:4096]
        return Answer(
            self._answer_headers({"Tide-Status": "error", "Tide-Code": str(code), "Tide-Message": message}), b""
        )

    def _answer_headers(self, headers):
        headers |= {"Tide-Re": self.id, "Tide-Attempt": str(self.attempt)}
        if digest := self.headers.get("Tide-Digest"):
            headers["Tide-Digest"] = digest
        return headers


def number(text):
    return int(text) if text and text.isdecimal() else 0


def token(name):
    """A name as one token of a subject."""
    plain = lambda byte: chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "_-")
    text = "".join(chr(b) if plain(b) else f"={b:02X}" for b in name.encode()) or "="
    if len(text) > 120:
        digest = hashlib.sha256(name.encode()).digest()
        return "=h" + base64.b32hexencode(digest).decode().rstrip("=").lower()
    return text


class Worker:
    def __init__(self, handler):
        self.handler = handler
        self.stopping = asyncio.Event()
        self.running = {}  # the requests that were pulled and are not settled, each with its task
        self.alone = asyncio.Lock()
        self.handling = {}  # the requests whose handlers run, by id, each with its task

    async def run(self):
        self.nc = await nats.connect(
            URL, user=USER, password=PASSWORD, inbox_prefix=f"_INBOX_{USER}".encode(), max_reconnect_attempts=-1
        )
        self.js = self.nc.jetstream()
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, self.stopping.set)
        info = await self.js.consumer_info(f"TIDE_IN_{ROUTE}", ROUTE)
        self.ack_wait = info.config.ack_wait
        await self.nc.subscribe(f"{PREFIX}.cancel.*.*", cb=self.cancel)
        consumers = [(f"TIDE_IN_{ROUTE}", ROUTE), ("TIDE_PARK", ROUTE)]
        if await self.has_first_lane():
            consumers.append((f"TIDE_IN_{ROUTE}", f"{ROUTE}-first"))
        await asyncio.gather(*(self.consume(stream, consumer, CONCURRENCY) for stream, consumer in consumers))
        if self.running:
            _, unfinished = await asyncio.wait(self.running.values(), timeout=DRAIN)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await self.nc.close()

    async def has_first_lane(self):
        """Whether requests of the route may have priority."""
        try:
            return bool(await self.js.consumer_info(f"TIDE_IN_{ROUTE}", f"{ROUTE}-first"))
        except NotFoundError:
            return False

    async def cancel(self, msg):
        """Ends the handler of a request whose caller does not want the answer any more."""
        request, handling = self.handling.get(".".join(msg.subject.split(".")[-2:]), (None, None))
        if request is not None:
            request.is_cancelled = True
            handling.cancel()

    async def consume(self, stream, consumer, concurrency):
        """Pulls as many messages as there are free permits, never more."""
        sub = await self.js.pull_subscribe_bind(consumer=consumer, stream=stream)
        free = asyncio.Semaphore(concurrency)
        while not self.stopping.is_set():
            await free.acquire()
            permits = 1
            while not free.locked() and permits < concurrency:
                await free.acquire()
                permits += 1
            try:
                messages = await sub.fetch(permits, timeout=2)
            except (NatsTimeout, asyncio.TimeoutError):
                messages = []
            except Exception as error:
                print(f"a pull from {stream} failed: {error!r}", flush=True)
                await asyncio.sleep(1)
                messages = []
            for _ in range(permits - len(messages)):
                free.release()
            for msg in messages:
                request = Request(msg)
                task = self.running[request] = asyncio.create_task(self.attend(request))
                task.add_done_callback(lambda _, request=request: (self.running.pop(request), free.release()))

    async def attend(self, request):
        """Settles one request, with signs of life meanwhile."""
        alive = asyncio.create_task(self.keep_alive(request.msg))
        try:
            await self.settle(request)
        except asyncio.CancelledError:
            # The drain is over: the request goes back, and this is no attempt.
            await self.park(request, request.attempt, 1.0, request.suspect)
        except Exception as error:
            # Not settled, so the broker delivers it again after ack_wait.
            print(f"a request could not be settled: {error!r}", flush=True)
        finally:
            alive.cancel()

    async def keep_alive(self, msg):
        while True:
            await asyncio.sleep(self.ack_wait / 3)
            await msg.in_progress()

    async def settle(self, request):
        if not request.readable():
            await self.store_letter(request, "unreadable", "the header Tide-Id is missing or malformed")
            return await self.nc.request(request.msg.reply, b"+TERM the header Tide-Id is missing or malformed", timeout=5)
        if request.is_stored or request.attempt > 0 or request.lost > 0 or request.parked:
            if (stored := await self.stored_answer(request)) is not None:
                await self.bring(request, stored)
                return await self.ack(request)
        if request.attempt >= MAX_ATTEMPTS:
            return await self.bury(request, "crashed", "the worker ended during every attempt", request.attempt)
        if request.lost > 0 and request.suspect < 2:
            return await self.park(request, request.attempt, 0, request.suspect + 1)
        if request.suspect < 2:
            return await self.attempt(request)
        if not self.alone.locked():
            async with self.alone:
                if await self.becomes_alone(request):
                    return await self.attempt(request)
        # It does not wait here, where it would be lost with the one that is being tried.
        await self.park(request, request.attempt, random.uniform(0.1, 0.4), 2)

    async def becomes_alone(self, request):
        """Waits until no other request here would count an attempt if this one ended the worker: those are parked meanwhile."""
        # Some are on their way. Those that were lost with it are delivered again within the time between two signs of life.
        pulled = time.monotonic() + 0.2 + (self.ack_wait / 3 if request.exposed else 0)
        while time.monotonic() < pulled or any(other.exposed for other in self.running if other is not request):
            if self.stopping.is_set() or time.monotonic() > pulled + self.ack_wait:
                return False
            await asyncio.sleep(0.02)
        return True

    async def attempt(self, request):
        """Runs the handler once."""
        handling = asyncio.ensure_future(self.handler(request))
        self.handling[request.id] = request, handling
        try:
            body = await asyncio.wait_for(handling, TIMEOUT)
        except asyncio.CancelledError:
            if not request.is_cancelled:
                raise
            return await self.give_up(request)
        except Reject as reject:
            return await self.conclude(request, request.error(reject.code, reject.message))
        except Exception as error:
            reason = "timeout" if isinstance(error, asyncio.TimeoutError) else "attempts"
            return await self.retry(request, reason, f"{error!r}", request.attempt + 1)
        finally:
            self.handling.pop(request.id, None)
        await self.conclude(request, request.answer(body))

    async def give_up(self, request):
        """Settles a cancelled request. Whoever cancels has stored its answer before."""
        if (stored := await self.stored_answer(request)) is None:
            return await self.park(request, request.attempt, 1.0, request.suspect)
        await self.bring(request, stored)
        await self.ack(request)

    async def conclude(self, request, answer):
        try:
            if request.is_stored:
                answer = await self.store_answer(request, answer)
            await self.bring(request, answer)
        except TooLarge as error:
            return await self.bury(request, "unstorable", str(error), request.attempt + 1)
        await self.ack(request)

    async def store_answer(self, request, answer):
        """Stores an answer and returns the one that counts: the first."""
        if len(answer.body) > ANSWER_MAX_BYTES:
            raise TooLarge(f"the answer has {len(answer.body)} bytes, {ANSWER_MAX_BYTES} may be stored")
        while True:
            try:
                await self.js.publish(f"{PREFIX}.reply.{request.id}", answer.body, headers=answer.headers)
                return answer
            except APIError as error:
                if "per subject" in (error.description or ""):
                    return await self.stored_answer(request) or answer
                # "maximum bytes": the result cache is full until answers expire.
                await asyncio.sleep(1)
            except NatsTimeout:
                pass

    async def stored_answer(self, request):
        subject = f"$JS.API.DIRECT.GET.TIDE_REPLY.{PREFIX}.reply.{request.id}"
        reply = await self.nc.request(subject, timeout=5)
        headers = reply.headers or {}
        if headers.get("Status") == "404":
            return None
        return Answer({k: v for k, v in headers.items() if not k.lower().startswith("nats-")}, reply.data)

    async def bring(self, request, answer):
        """Brings an answer to the client. It is stored already, or handed to the gateway."""
        if request.keyed:
            await self.nc.publish(f"{PREFIX}.answer.{request.id}", answer.body, headers=answer.headers)
        if request.later:
            await self.publish_to_user(request, answer)
        if request.is_awaited and not request.is_stored:
            await self.hand_over(request, answer)

    async def hand_over(self, request, answer):
        if len(answer.body) + 4096 > self.nc.max_payload:
            raise TooLarge(f"the answer has {len(answer.body)} bytes, and the broker takes {self.nc.max_payload}")
        over = min(time.time(), request.accepted_at or time.time()) + ANSWER_TIMEOUT + 0.5
        stored, asked = False, 0
        while True:
            try:
                asked += 1
                subject = f"{PREFIX}.answer.{request.id}"
                word = await self.nc.request(subject, answer.body, timeout=1, headers=answer.headers)
                if word.data in (b"taken", b"known"):
                    return
                if word.data == b"late":
                    return await self.publish_to_user(request, answer)
            except (NatsTimeout, NoRespondersError):
                pass
            if asked > 1 and time.time() > over:
                return await self.publish_to_user(request, answer)
            if not stored and len(answer.body) <= ANSWER_MAX_BYTES:
                await self.store_answer(request, answer)
                stored = True
            await asyncio.sleep(0.3)

    async def publish_to_user(self, request, answer):
        if request.user is None:
            return
        status, body = answer.headers["Tide-Status"], answer.body
        if status == "error":
            message = answer.headers["Tide-Message"].replace("\\", "\\\\").replace('"', '\\"')
            body = f'{{"code":{answer.headers["Tide-Code"]},"message":"{message}"}}'.encode()
        redriven = request.headers.get("Tide-Redriven")
        id = f"{request.id}.l" + (f".d{redriven}" if redriven else "")
        headers = {"Nats-Msg-Id": id, "Tide-Tag-re": request.id, "Tide-Tag-status": status}
        await self.store(f"{PREFIX}.ch.user.{token(request.user)}", body, headers)

    async def retry(self, request, reason, error, failed):
        if failed >= MAX_ATTEMPTS:
            return await self.bury(request, reason, error, failed)
        delay = min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (failed - 1))
        await self.park(request, failed, delay * random.uniform(0.5, 1))

    async def park(self, request, attempt, delay, suspect=0):
        """Stores the request for its next delivery, then acknowledges this one."""
        due = datetime.now(timezone.utc) + timedelta(seconds=delay)
        headers = {k: v for k, v in request.own.items() if k != "Tide-Suspect"}
        if suspect:
            headers["Tide-Suspect"] = str(suspect)
        headers |= {
            "Nats-Msg-Id": f"{request.id}.a{attempt}.{request.place}",
            "Nats-Schedule": "@at " + due.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "Nats-Schedule-Target": request.due(),
            "Tide-Attempt": str(attempt),
        }
        await self.store(f"{PREFIX}.park.{request.id}", request.body, headers)
        await self.ack(request)

    async def bury(self, request, reason, error, attempts):
        """Stores a dead letter, tells the client, and acknowledges."""
        await self.store_letter(request, reason, error, attempts)
        error = request.error(DEAD_LETTER, f"failed for good, kept as a dead letter: {attempts} attempts")
        if request.is_stored:
            error = await self.store_answer(request, error)
        await self.bring(request, error)
        await self.ack(request)

    async def store_letter(self, request, reason, error, attempts=0):
        headers = request.own | {
            "Nats-Msg-Id": f"{request.id or ROUTE}.dead.{request.place}",
            "Tide-Dead-Reason": reason,
            "Tide-Dead-Error": " ".join(error.split())[:1024],
            "Tide-Dead-Attempts": str(attempts),
            "Tide-Dead-Subject": request.msg.subject,
        }
        await self.store(f"{PREFIX}.dead.{token(SERVICE)}.{token(ROUTE)}", request.body, headers)

    async def store(self, subject, body, headers):
        """Stores a message, for as long as it takes: its id makes repetitions harmless."""
        while True:
            try:
                return await self.js.publish(subject, body, headers=headers)
            except (NatsTimeout, nats.js.errors.NoStreamResponseError):
                await asyncio.sleep(0.3)

    async def ack(self, request):
        """The double ack: the broker confirms it."""
        for _ in range(5):
            try:
                return await self.nc.request(request.msg.reply, b"+ACK", timeout=1)
            except NatsTimeout:
                pass
