// A whole system for one test file: a broker, two gateways, two workers and a purger on free ports, in a directory of its own.

import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);
const SDK = resolve(import.meta.dirname, '../..');
const TIDEGATE = resolve(process.env.SDK_TESTS_BIN ?? resolve(SDK, '../../../target/debug'), 'tidegate');
const CONFIG = join(SDK, 'tidegate.toml');
const START_LIMIT = 60_000;
const LOOK_AGAIN = 20;

export class Stack {
  /** Starts the stack before the tests of this file and ends it after them, however they went. */
  static forThisFile(variables = {}) {
    const stack = new Stack();
    stack.variables = variables;
    // Without a stack every test would fail: one message instead of one for each test.
    before(() => stack.start().catch((error) => {
      console.error(error);
      process.exit(1);
    }));
    after(() => stack.down());
    return stack;
  }

  async start() {
    assert.ok(existsSync(TIDEGATE), `there is no ${TIDEGATE}: run \`cargo build --workspace --bins\``);
    this.dir = mkdtempSync(join(tmpdir(), 'tidegate-sdk-'));
    const log = openSync(join(this.dir, 'up.log'), 'w');
    this.supervisor = spawn(
      TIDEGATE,
      ['up', '--free-ports', '--gateways', '2', '--workers', '2', '--config', CONFIG, '--dir', this.dir],
      { stdio: ['ignore', log, log], env: { ...process.env, ...this.variables } },
    );
    process.once('exit', (code) => this.#leave(code));
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(1));
    const limit = AbortSignal.timeout(START_LIMIT);
    for (;;) {
      const processes = await this.processes().catch(() => []);
      if (processes.length === 6 && processes.every((process) => process.phase === 'ready')) return;
      if (limit.aborted || this.supervisor.exitCode !== null) {
        throw new Error(`the stack did not start:\n${this.#log()}`);
      }
      await pause(LOOK_AGAIN);
    }
  }

  /** The state of every process. */
  async processes() {
    const { stdout } = await run(TIDEGATE, ['status', '--json', '--dir', this.dir]);
    return JSON.parse(stdout);
  }

  async #address(name) {
    const processes = await this.processes();
    return processes.find((process) => process.name === name).address;
  }

  /** The address clients connect to: of gateway 1 or 2. */
  gateway(number) {
    return this.#address(`gateway-${number}`);
  }

  async nats() {
    return new URL(await this.#address('nats'));
  }

  /** kill -9. The supervisor starts the process again. */
  async kill(name) {
    await this.#ask('kill', name);
  }

  /** SIGTERM. Returns when the process has ended; it stays down until `bringUp`. */
  async drain(name) {
    await this.#ask('stop', name);
  }

  async bringUp(name) {
    await this.#ask('start', name);
  }

  #ask(verb, name) {
    return run(TIDEGATE, [verb, name, '--dir', this.dir]);
  }

  /** A connection token as the command makes it. */
  async token(user) {
    const { stdout } = await run(TIDEGATE, ['token', '--user', user, '--config', CONFIG]);
    return stdout.trim();
  }

  /** How many requests of a route the workers have answered. */
  async answered(route) {
    const workers = (await this.processes()).filter((process) => process.kind === 'worker');
    const counts = await Promise.all(
      workers.map(async ({ address }) => {
        const metrics = await (await fetch(new URL('/metrics', address))).text();
        const line = metrics.split('\n').find((line) => {
          return line.startsWith('tidegate_worker_requests') && line.includes(`route="${route}"`) && line.includes('outcome="ok"');
        });
        return line ? Number(line.split(' ').at(-1)) : 0;
      }),
    );
    return counts.reduce((sum, count) => sum + count, 0);
  }

  /** Waits until the workers have answered this many. */
  async untilAnswered(route, count, limit = AbortSignal.timeout(10_000)) {
    for (;;) {
      const answered = await this.answered(route);
      if (answered >= count) return answered;
      assert.ok(!limit.aborted, `the workers answered ${answered} of ${count} requests of ${route}`);
      await pause(LOOK_AGAIN);
    }
  }

  async down() {
    if (this.supervisor?.exitCode === null) await run(TIDEGATE, ['down', '--dir', this.dir]);
  }

  /** Ends the running processes and prints their logs after a failure. */
  #leave(code) {
    if (this.supervisor.exitCode === null) {
      try {
        execFileSync(TIDEGATE, ['down', '--dir', this.dir]);
      } catch {
        this.supervisor.kill('SIGKILL');
      }
    }
    if (code === 0) {
      rmSync(this.dir, { recursive: true, force: true });
    } else {
      console.error(`the stack's files are in ${this.dir}; it said at the end:\n${this.#log()}`);
    }
  }

  #log() {
    return readFileSync(join(this.dir, 'up.log'), 'utf8').split('\n').slice(-60).join('\n');
  }
}
