// Recorded events of an emitter, and waiting for them with a deadline.

const LIMIT = 10_000;

export class Events {
  #seen = [];
  #changed = new EventTarget();

  /** Records these events of an emitter from now on. */
  static of(emitter, ...names) {
    const events = new Events();
    for (const name of names) emitter.on(name, (context) => events.record(name, context));
    return events;
  }

  record(name, context) {
    this.#seen.push({ name, context });
    this.#changed.dispatchEvent(new Event('change'));
  }

  /** Every event of that name so far. */
  all(name) {
    return this.#seen.filter((event) => event.name === name).map((event) => event.context);
  }

  /** The `count`-th event of that name (from 1), which may be in the past. With a predicate only matching events count. */
  async get(name, { count = 1, where = () => true, limit = LIMIT } = {}) {
    const deadline = AbortSignal.timeout(limit);
    for (;;) {
      const found = this.all(name).filter(where);
      if (found.length >= count) return found[count - 1];
      const seen = () => this.#seen.map((event) => `${event.name} ${JSON.stringify(event.context)}`).join('\n  ');
      if (deadline.aborted) throw new Error(`no ${name} within ${limit} ms; there were:\n  ${seen()}`);
      await new Promise((resolve) => {
        this.#changed.addEventListener('change', resolve, { once: true });
        deadline.addEventListener('abort', resolve, { once: true });
      });
    }
  }
}
