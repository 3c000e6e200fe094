// A browser's EventSource without any code for reconnecting: it reconnects by itself, to the other gateway, and recovers.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EventSource } from 'eventsource';

import { takeTurns } from './support/balancer.js';
import { tokenFor, unique } from './support/client.js';
import { Events } from './support/events.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';
import { path } from './support/transports.js';

const stack = Stack.forThisFile();

/** The events of a page: every publication, those inside `connect` too, and whether all subscriptions recovered. */
function listen(t, streams, request) {
  const source = new EventSource(path(streams, `/connection/uni_sse?cf_connect=${encodeURIComponent(JSON.stringify(request))}`));
  t.after(() => source.close());
  const events = new Events();
  source.onmessage = ({ data }) => {
    const { connect, channel, pub } = JSON.parse(data);
    for (const [name, sub] of Object.entries(connect?.subs ?? {})) {
      for (const { data: missed } of sub.publications ?? []) events.record(name, missed);
    }
    if (connect) events.record('connect', connect);
    if (pub) events.record(channel, pub.data);
  };
  return events;
}

test('an EventSource whose gateway is killed gets every event exactly once', async (t) => {
  const [a, b, user] = [unique('a'), unique('b'), unique('user')];
  const { streams } = await takeTurns(t, await stack.gateway(1), await stack.gateway(2));
  const heard = listen(t, streams, { token: tokenFor(user), subs: { [`kept:${a}`]: {}, [`kept:${b}`]: {} } });
  await heard.get('connect');
  const nats = await stack.nats();
  let sent = 0;
  const publishAll = async (count) => {
    for (const last = sent + count; sent < last; sent += 1) {
      await publish(nats, `tide.ch.kept.${a}`, JSON.stringify(`a${sent}`));
      if (sent % 3 === 0) await publish(nats, `tide.ch.kept.${b}`, JSON.stringify(`b${sent}`));
    }
  };

  for (const [round, gateway] of [[1, 'gateway-1'], [2, 'gateway-2']]) {
    await publishAll(6);
    await heard.get(`kept:${a}`, { count: sent });
    await stack.kill(gateway);
    await publishAll(9);
    await publish(nats, `tide.ch.user.${user}`, String(round));
    const { subs } = await heard.get('connect', { count: round + 1, limit: 30_000 });
    assert.deepEqual(Object.values(subs).map(({ recovered }) => recovered), [true, true, true]);
    await heard.get(`#${user}`, { count: round });
    await stack.bringUp(gateway);
  }
  await publishAll(3);
  await heard.get(`kept:${a}`, { count: sent });
  const numbers = Array.from({ length: sent }, (_, number) => number);
  assert.deepEqual(heard.all(`kept:${a}`), numbers.map((number) => `a${number}`));
  assert.deepEqual(heard.all(`kept:${b}`), numbers.filter((number) => number % 3 === 0).map((number) => `b${number}`));
  assert.deepEqual(heard.all(`#${user}`), [1, 2]);
  const gateways = heard.all('connect').map(({ client }) => client.split('.')[0]);
  assert.equal(new Set(gateways).size, 3, 'one, the other, and the first started again');
});
