// Features are written once and shown over every transport, each by a client that is on another gateway after every break.

import { describe } from 'node:test';

import { TRANSPORTS, roaming } from './transports.js';

// Every test has clients and channels of its own; most of them wait most of the time.
const TRANSPORTS_AT_ONCE = { concurrency: TRANSPORTS.length };
const TESTS_AT_ONCE = { concurrency: 2 };

/** Makes the tests of `define` once for every transport, and hands it what differs between them. */
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
