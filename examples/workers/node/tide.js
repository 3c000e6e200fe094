// A worker of one Tidegate route: version 1 of docs/worker-contract.md, step by step. Your handlers are in worker.js.

import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { jetstream, JetStreamApiError } from "@nats-io/jetstream";
import { connect, headers as newHeaders, RequestError, TimeoutError } from "@nats-io/transport-node";

const env = (name, usual) => process.env[name] ?? usual;
const USER = env("NATS_USER", "worker");
const PREFIX = env("TIDE_PREFIX", "tide");
const ROUTE = env("TIDE_ROUTE", "conformance");
const SERVICE = env("TIDE_SERVICE", "default");
const MAX_ATTEMPTS = Number(env("TIDE_MAX_ATTEMPTS", "5"));
const CONCURRENCY = Number(env("TIDE_CONCURRENCY", "32"));
const TIMEOUT = 30_000; // one attempt: the route's `timeout`, in milliseconds as all times here
const ANSWER_TIMEOUT = 4_000; // how long a caller waits: gateway.answer_timeout
const ANSWER_MAX_BYTES = 256 * 1024; // the longest answer that is stored: streams.answer_max_bytes
const BACKOFF_BASE = 300;
const BACKOFF_CAP = 600_000;
const DRAIN = 25_000;
const DEAD_LETTER = 1004;

/** The caller gets this error; the request is not tried again. */
export class Reject extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** The answer is longer than may be stored or sent. */
class TooLarge extends Error {}

/** The caller does not want the answer any more. */
class Cancelled extends Error {}

/** One delivered message, read. */
class Request {
  constructor(msg) {
    this.msg = msg;
    this.body = msg.data;
    this.own = {};
    for (const [name, values] of msg.headers ?? []) {
      if (!/^nats-/i.test(name)) this.own[name] = values[0];
    }
    this.id = this.header("Tide-Id") ?? "";
    this.user = this.header("Tide-User");
    this.parked = msg.info.stream === "TIDE_PARK";
    this.place = (this.parked ? "p" : "i") + msg.info.streamSequence;
    this.lost = msg.info.deliveryCount - 1;
    // 1: its worker ended once, 2: twice, so it is tried alone. Only then a lost delivery counts, the first excepted.
    this.suspect = Number(this.header("Tide-Suspect") ?? 0);
    const lostAttempts = this.suspect === 2 ? Math.max(0, this.lost - 1) : 0;
    this.attempt = Number(this.header("Tide-Attempt") ?? 0) + lostAttempts;
    this.exposed = this.suspect === 2 && this.lost > 0; // one more loss counts as an attempt
    this.keyed = this.id.startsWith("k.");
    this.later = this.header("Tide-Later") !== undefined;
    this.isStored = this.keyed || this.later;
    this.isAwaited = this.header("Tide-Method") !== undefined;
    this.acceptedAt = Number(this.header("Tide-Accepted-At") ?? Date.now());
    this.readable = /^[\w-]+\.[\w-]+$/.test(this.id);
  }

  header(name) {
    return this.own[name];
  }

  /** The subject of the next delivery: the address is the same, the stage is `due`. */
  due() {
    return `${PREFIX}.due.` + this.msg.subject.slice(PREFIX.length + 1).replace(/^[^.]*\./, "");
  }

  answer(body) {
    return { headers: this.#answerHeaders({ "Tide-Status": "ok" }), body };
  }

  error(code, message) {
    const text = message.replace(/\s+/g, " ").trim().slice(0, 1024);
    const headers = { "Tide-Status": "error", "Tide-Code": String(code), "Tide-Message": text };
    return { headers: this.#answerHeaders(headers), body: new Uint8Array() };
  }

  #answerHeaders(headers) {
    const digest = this.header("Tide-Digest");
    return { ...headers, "Tide-Re": this.id, "Tide-Attempt": String(this.attempt), ...(digest && { "Tide-Digest": digest }) };
  }
}

/** A name as one token of a subject. */
function token(name) {
  const plain = (byte) => /[\w-]/.test(String.fromCharCode(byte)) && byte < 128;
  const hex = (byte) => "=" + byte.toString(16).toUpperCase().padStart(2, "0");
  const text = [...Buffer.from(name)].map((byte) => (plain(byte) ? String.fromCharCode(byte) : hex(byte))).join("") || "=";
  return text.length > 120 ? "=h" + base32hex(createHash("sha256").update(name).digest()) : text;
}

function base32hex(bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  return bits.match(/.{1,5}/g).map((five) => parseInt(five.padEnd(5, "0"), 2).toString(32)).join("");
}

function asHeaders(entries) {
  const result = newHeaders();
  for (const [name, value] of Object.entries(entries)) result.set(name, value);
  return result;
}

export class Worker {
  #running = new Set();
  #handling = new Map(); // the requests whose handlers run, by id
  #alone = false;
  #stopping = false;

  constructor(handler) {
    this.handler = handler;
  }

  async run() {
    this.nc = await connect({
      servers: env("NATS_URL", "nats://127.0.0.1:4222").split(","),
      user: USER,
      pass: env("NATS_PASSWORD", "dev-worker"),
      inboxPrefix: `_INBOX_${USER}`,
      maxReconnectAttempts: -1,
    });
    this.js = jetstream(this.nc);
    for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => (this.#stopping = true));
    this.nc.subscribe(`${PREFIX}.cancel.*.*`, {
      callback: (_, msg) => this.#handling.get(msg.subject.split(".").slice(-2).join("."))?.abort(new Cancelled()),
    });
    const consumers = [[`TIDE_IN_${ROUTE}`, ROUTE], ["TIDE_PARK", ROUTE]];
    if (await this.#hasFirstLane()) consumers.push([`TIDE_IN_${ROUTE}`, `${ROUTE}-first`]);
    await Promise.all(consumers.map(([stream, name]) => this.#consume(stream, name)));
    const drained = Promise.allSettled([...this.#running].map(({ done }) => done));
    await Promise.race([drained, sleep(DRAIN, undefined, { ref: false })]);
    // What is not finished goes back, and this is no attempt.
    await Promise.allSettled([...this.#running].map(({ request }) => this.#park(request, request.attempt, 1000, request.suspect)));
    await this.nc.drain();
    process.exit(0);
  }

  /** Whether requests of the route may have priority. */
  async #hasFirstLane() {
    try {
      await this.js.consumers.get(`TIDE_IN_${ROUTE}`, `${ROUTE}-first`);
      return true;
    } catch (error) {
      if (/not found/i.test(String(error))) return false;
      throw error;
    }
  }

  /** Pulls as many messages as there are free permits, never more. */
  async #consume(stream, name) {
    const consumer = await this.js.consumers.get(stream, name);
    const ackWait = (await consumer.info(true)).config.ack_wait / 1e6;
    let free = CONCURRENCY;
    let freed = () => {};
    while (!this.#stopping) {
      if (free === 0) await new Promise((resolve) => (freed = resolve));
      try {
        for await (const msg of await consumer.fetch({ max_messages: free, expires: 2000 })) {
          free -= 1;
          const attended = { request: new Request(msg) };
          this.#running.add(attended);
          attended.done = this.#attend(attended.request, ackWait).finally(() => {
            this.#running.delete(attended);
            free += 1;
            freed();
          });
        }
      } catch (error) {
        console.error(`a pull from ${stream} failed: ${error}`);
        await sleep(1000);
      }
    }
  }

  /** Settles one message, with signs of life meanwhile. */
  async #attend(request, ackWait) {
    const alive = setInterval(() => request.msg.working(), ackWait / 3);
    try {
      await this.#settle(request, ackWait);
    } catch (error) {
      // Not settled, so the broker delivers it again after ack_wait.
      console.error(`a request could not be settled: ${error}`);
    } finally {
      clearInterval(alive);
    }
  }

  async #settle(request, ackWait) {
    if (!request.readable) {
      const reason = "the header Tide-Id is missing or malformed";
      await this.#storeLetter(request, "unreadable", reason, 0);
      return request.msg.term(reason);
    }
    if (request.isStored || request.attempt > 0 || request.lost > 0 || request.parked) {
      const stored = await this.#storedAnswer(request);
      if (stored) {
        await this.#bring(request, stored);
        return this.#ack(request);
      }
    }
    if (request.attempt >= MAX_ATTEMPTS) {
      return this.#bury(request, "crashed", "the worker ended during every attempt", request.attempt);
    }
    if (request.lost > 0 && request.suspect < 2) return this.#park(request, request.attempt, 0, request.suspect + 1);
    if (request.suspect < 2) return this.#attempt(request);
    if (!this.#alone) {
      this.#alone = true;
      try {
        if (await this.#becomesAlone(request, ackWait)) return await this.#attempt(request);
      } finally {
        this.#alone = false;
      }
    }
    // It does not wait here, where it would be lost with the one that is being tried.
    await this.#park(request, request.attempt, 100 + Math.random() * 300, 2);
  }

  /** Waits until no other request here would count an attempt if this one ended the worker: those are parked meanwhile. */
  async #becomesAlone(request, ackWait) {
    // Some are on their way. Those that were lost with it are delivered again within the time between two signs of life.
    const pulled = Date.now() + 200 + (request.exposed ? ackWait / 3 : 0);
    const waitsFor = ({ request: other }) => other !== request && other.exposed;
    while (Date.now() < pulled || [...this.#running].some(waitsFor)) {
      if (this.#stopping || Date.now() > pulled + ackWait) return false;
      await sleep(20);
    }
    return true;
  }

  /** Runs the handler once. */
  async #attempt(request) {
    let answer;
    const cancelling = new AbortController();
    request.cancelled = cancelling.signal;
    this.#handling.set(request.id, cancelling);
    try {
      answer = request.answer(await this.#limited(this.handler(request), cancelling.signal));
    } catch (error) {
      if (cancelling.signal.aborted) return this.#giveUp(request);
      if (!(error instanceof Reject)) return this.#retry(request, "attempts", String(error), request.attempt + 1);
      answer = request.error(error.code, error.message);
    } finally {
      this.#handling.delete(request.id);
    }
    await this.#conclude(request, answer);
  }

  /** Settles a cancelled request. Whoever cancels has stored its answer before. */
  async #giveUp(request) {
    const stored = await this.#storedAnswer(request);
    if (!stored) return this.#park(request, request.attempt, 1000, request.suspect);
    await this.#bring(request, stored);
    await this.#ack(request);
  }

  async #limited(result, signal) {
    const timer = new AbortController();
    const cancelled = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    cancelled.catch(() => {});
    const late = sleep(TIMEOUT, undefined, { signal: timer.signal }).then(() => {
      throw new Error(`no answer within ${TIMEOUT} ms`);
    });
    late.catch(() => {});
    try {
      result.catch(() => {});
      return await Promise.race([result, late, cancelled]);
    } finally {
      timer.abort();
    }
  }

  async #conclude(request, answer) {
    try {
      if (request.isStored) answer = await this.#storeAnswer(request, answer);
      await this.#bring(request, answer);
    } catch (error) {
      if (error instanceof TooLarge) return this.#bury(request, "unstorable", error.message, request.attempt + 1);
      throw error;
    }
    await this.#ack(request);
  }

  /** Stores an answer and returns the one that counts: the first. */
  async #storeAnswer(request, answer) {
    if (answer.body.length > ANSWER_MAX_BYTES) {
      throw new TooLarge(`the answer has ${answer.body.length} bytes, ${ANSWER_MAX_BYTES} may be stored`);
    }
    for (;;) {
      try {
        await this.js.publish(`${PREFIX}.reply.${request.id}`, answer.body, { headers: asHeaders(answer.headers) });
        return answer;
      } catch (error) {
        if (error instanceof JetStreamApiError && error.message.includes("per subject")) {
          return (await this.#storedAnswer(request)) ?? answer;
        }
        // No acknowledgement; or "maximum bytes": the result cache is full until answers expire.
        await sleep(1000);
      }
    }
  }

  async #storedAnswer(request) {
    const subject = `$JS.API.DIRECT.GET.TIDE_REPLY.${PREFIX}.reply.${request.id}`;
    const reply = await this.nc.request(subject, "", { timeout: 5000 });
    if (reply.headers?.code === 404) return undefined;
    const own = [...reply.headers].filter(([name]) => !/^nats-/i.test(name)).map(([name, values]) => [name, values[0]]);
    return { headers: Object.fromEntries(own), body: reply.data };
  }

  /** Brings an answer to the client. It is stored already, or handed to the gateway. */
  async #bring(request, answer) {
    if (request.keyed) {
      this.nc.publish(`${PREFIX}.answer.${request.id}`, answer.body, { headers: asHeaders(answer.headers) });
    }
    if (request.later) await this.#publishToUser(request, answer);
    if (request.isAwaited && !request.isStored) await this.#handOver(request, answer);
  }

  async #handOver(request, answer) {
    const limit = this.nc.info.max_payload;
    if (answer.body.length + 4096 > limit) {
      throw new TooLarge(`the answer has ${answer.body.length} bytes, and the broker takes ${limit}`);
    }
    const over = Math.min(request.acceptedAt, Date.now()) + ANSWER_TIMEOUT + 500;
    const options = { timeout: 1000, headers: asHeaders(answer.headers) };
    for (let asked = 1, stored = false; ; asked += 1) {
      try {
        const word = (await this.nc.request(`${PREFIX}.answer.${request.id}`, answer.body, options)).string();
        if (word === "taken" || word === "known") return;
        if (word === "late") return await this.#publishToUser(request, answer);
      } catch (error) {
        // Silence, or no gateway there.
        if (!(error instanceof TimeoutError || error instanceof RequestError)) throw error;
      }
      if (asked > 1 && Date.now() > over) return this.#publishToUser(request, answer);
      if (!stored && answer.body.length <= ANSWER_MAX_BYTES) {
        await this.#storeAnswer(request, answer);
        stored = true;
      }
      await sleep(300);
    }
  }

  async #publishToUser(request, answer) {
    if (request.user === undefined) return;
    const status = answer.headers["Tide-Status"];
    let body = answer.body;
    if (status === "error") {
      const data = answer.body.length > 0 ? { data: JSON.parse(Buffer.from(answer.body)) } : {};
      body = JSON.stringify({ code: Number(answer.headers["Tide-Code"]), message: answer.headers["Tide-Message"], ...data });
    }
    const redriven = request.header("Tide-Redriven");
    const id = redriven === undefined ? `${request.id}.l` : `${request.id}.l.d${redriven}`;
    const headers = { "Nats-Msg-Id": id, "Tide-Tag-re": request.id, "Tide-Tag-status": status };
    await this.#store(`${PREFIX}.ch.user.${token(request.user)}`, body, headers);
  }

  async #retry(request, reason, error, failed) {
    if (failed >= MAX_ATTEMPTS) return this.#bury(request, reason, error, failed);
    const delay = Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** (failed - 1));
    await this.#park(request, failed, delay * (0.5 + Math.random() / 2));
  }

  /** Stores the request for its next delivery, then acknowledges this one. */
  async #park(request, attempt, delay, suspect = 0) {
    const { "Tide-Suspect": _, ...own } = request.own;
    await this.#store(`${PREFIX}.park.${request.id}`, request.body, {
      ...own,
      "Nats-Msg-Id": `${request.id}.a${attempt}.${request.place}`,
      "Nats-Schedule": `@at ${new Date(Date.now() + delay).toISOString()}`,
      "Nats-Schedule-Target": request.due(),
      "Tide-Attempt": String(attempt),
      ...(suspect > 0 ? { "Tide-Suspect": String(suspect) } : {}),
    });
    await this.#ack(request);
  }

  /** Stores a dead letter, tells the client, and acknowledges. */
  async #bury(request, reason, failure, attempts) {
    await this.#storeLetter(request, reason, failure, attempts);
    let error = request.error(DEAD_LETTER, `failed for good, kept as a dead letter: ${attempts} attempts`);
    if (request.isStored) error = await this.#storeAnswer(request, error);
    await this.#bring(request, error);
    await this.#ack(request);
  }

  async #storeLetter(request, reason, error, attempts) {
    await this.#store(`${PREFIX}.dead.${token(SERVICE)}.${token(ROUTE)}`, request.body, {
      ...request.own,
      "Nats-Msg-Id": `${request.id || ROUTE}.dead.${request.place}`,
      "Tide-Dead-Reason": reason,
      "Tide-Dead-Error": error.replace(/\s+/g, " ").slice(0, 1024),
      "Tide-Dead-Attempts": String(attempts),
      "Tide-Dead-Subject": request.msg.subject,
    });
  }

  /** Stores a message, for as long as it takes: its id makes repetitions harmless. */
  async #store(subject, body, headers) {
    for (;;) {
      try {
        return await this.js.publish(subject, body, { headers: asHeaders(headers) });
      } catch (error) {
        if (error instanceof JetStreamApiError) throw error;
        await sleep(300);
      }
    }
  }

  /** The double ack: the broker confirms it. */
  async #ack(request) {
    for (let tries = 0; tries < 5; tries += 1) {
      if (await request.msg.ackAck({ timeout: 1000 }).catch(() => false)) return;
    }
  }
}
