// Subscriptions that the server makes: the SDK knows them from the reply to `connect`, and resumes them by itself.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { balance } from './support/balancer.js';
import { PROTOCOLS, newClient, tokenFor, unique } from './support/client.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

for (const protocol of PROTOCOLS) {
  const { value } = protocol;

  test(`${protocol.protocol}: the channels of a token are there from the beginning and come back with what was missed`, async (t) => {
    const room = unique('room');
    const channel = `kept:${room}`;
    const url = await balance(t, await stack.gateway(1), await stack.gateway(2));
    const nats = await stack.nats();
    const user = unique('user');
    const subs = { [channel]: { data: { role: 'reader' } } };
    const getToken = async () => tokenFor(user, { claims: { subs } });
    const { client, events } = newClient(t, protocol, url, { getToken });
    client.connect();
    const subscribed = await events.get('subscribed', { where: (context) => context.channel === channel });
    assert.deepEqual(value(subscribed.data), { role: 'reader' });
    assert.equal(subscribed.recoverable, true);
    await publish(nats, `tide.ch.kept.${room}`, '1');
    assert.equal(value((await events.get('publication')).data), 1);

    await stack.kill('gateway-1');
    for (const data of ['2', '3']) await publish(nats, `tide.ch.kept.${room}`, data);
    await events.get('publication', { count: 3 });
    assert.deepEqual(events.all('publication').map(({ data }) => value(data)), [1, 2, 3]);
    const again = events.all('subscribed').filter((context) => context.channel === channel);
    assert.equal(again.length, 2);
    assert.equal(again[1].recovered, true);
    await stack.bringUp('gateway-1');
  });
}
