// A feature's tests are written once and run over every transport, with a client that reconnects to another gateway each time.

import { describe } from 'node:test';

import { TRANSPORTS, roaming } from './transports.js';

// Every test has clients and channels of its own; most of them wait most of the time.
const TRANSPORTS_AT_ONCE = { concurrency: TRANSPORTS.length };
const TESTS_AT_ONCE = { concurrency: 2 };

/** Defines the tests of `define` once for every transport, and passes it what differs between them. */
export function overEveryTransport(stack, define) {
  describe('over every transport', TRANSPORTS_AT_ONCE, () => {
    for (const way of TRANSPORTS) {
      const { payload, value } = way.protocol;
      const roam = (t, user, options) => roaming(t, stack, way, user, options);
      const values = (events) => events.all('publication').map(({ data }) => value(data));
      describe(way.name, TESTS_AT_ONCE, () => define({ roam, payload, value, values }));
    }
  });
}
