// Channels whose newest publication is all that counts, as the SDK uses them.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { PROTOCOLS, connect, newSubscription, subscribe, unique } from './support/client.js';
import { Events } from './support/events.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

for (const protocol of PROTOCOLS) {
  const { value } = protocol;

  test(`${protocol.protocol}: a client that was away gets the newest publication only`, async (t) => {
    const room = unique('match');
    const url = await stack.gateway(1);
    const { client: other } = await connect(t, protocol, url, unique('user'));
    const { events: seen } = await subscribe(other, `score:${room}`);
    const { client } = await connect(t, protocol, url, unique('user'));
    const { events: heard } = await subscribe(client, `score:${room}`);
    const nats = await stack.nats();
    await publish(nats, `tide.ch.score.${room}`, '0');
    assert.equal(value((await heard.get('publication')).data), 0);

    client.disconnect();
    for (const text of ['1', '2', '3']) await publish(nats, `tide.ch.score.${room}`, text);
    await seen.get('publication', { count: 4 });
    client.connect();
    const again = await heard.get('subscribed', { count: 2 });
    assert.deepEqual([again.wasRecovering, again.recovered], [true, true]);
    assert.equal(value((await heard.get('publication', { count: 2 })).data), 3);

    client.disconnect();
    client.connect();
    const top = await heard.get('subscribed', { count: 3 });
    assert.deepEqual([top.wasRecovering, top.recovered], [true, true]);
    await publish(nats, `tide.ch.score.${room}`, '4');
    assert.equal(value((await heard.get('publication', { count: 3 })).data), 4, 'it was not sent again');
  });

  test(`${protocol.protocol}: a subscription that begins with no position gets the newest publication`, async (t) => {
    const room = unique('match');
    const nats = await stack.nats();
    for (const text of ['1', '2']) await publish(nats, `tide.ch.score.${room}`, text);
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const subscription = client.newSubscription(`score:${room}`, { since: { offset: 0, epoch: '' } });
    const events = Events.of(subscription, 'subscribed', 'publication');
    subscription.subscribe();
    assert.equal((await events.get('subscribed')).recovered, true);
    assert.equal(value((await events.get('publication')).data), 2);
  });

  test(`${protocol.protocol}: a board shows its newest publication to every subscriber`, async (t) => {
    const room = unique('board');
    const nats = await stack.nats();
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { subscription: early, events: empty } = newSubscription(client, `board:${room}`);
    early.subscribe();
    assert.equal((await empty.get('subscribed')).recovered, false);
    for (const text of ['1', '2']) await publish(nats, `tide.ch.board.${room}`, text);
    assert.equal(value((await empty.get('publication', { count: 2 })).data), 2);
    const { client: other } = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const { events } = await subscribe(other, `board:${room}`);
    assert.equal((await events.get('subscribed')).recovered, true);
    assert.equal(value((await events.get('publication')).data), 2);
  });
}
