// Channels with history, as the SDK uses them: what was missed comes after the reconnect, on whichever gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { balance } from './support/balancer.js';
import { PROTOCOLS, connect, subscribe, unique } from './support/client.js';
import { Events } from './support/events.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

for (const protocol of PROTOCOLS) {
  const { payload, value } = protocol;

  test(`${protocol.protocol}: a client that was away gets what it missed, on the other gateway, and is told so`, async (t) => {
    const room = unique('room');
    const user = unique('user');
    const url = await balance(t, await stack.gateway(1), await stack.gateway(2));
    const { client, events } = await connect(t, protocol, url, user);
    const { events: heard } = await subscribe(client, `kept:${room}`);
    assert.equal((await heard.get('subscribed')).recoverable, true);
    const nats = await stack.nats();
    await publish(nats, `tide.ch.kept.${room}`, '0');
    await publish(nats, `tide.ch.user.${user}`, '"before"');
    assert.equal(value((await heard.get('publication')).data), 0);
    assert.equal(value((await events.get('publication')).data), 'before');

    client.disconnect();
    for (const text of ['1', '2', '3']) await publish(nats, `tide.ch.kept.${room}`, text);
    await publish(nats, `tide.ch.user.${user}`, '"meanwhile"');
    client.connect();

    const again = await heard.get('subscribed', { count: 2 });
    assert.deepEqual([again.wasRecovering, again.recovered], [true, true]);
    for (const [count, number] of [[2, 1], [3, 2], [4, 3]]) {
      assert.equal(value((await heard.get('publication', { count })).data), number);
    }
    assert.equal(value((await events.get('publication', { count: 2 })).data), 'meanwhile');
  });

  test(`${protocol.protocol}: after a gateway's kill -9 nothing is missing`, async (t) => {
    const room = unique('room');
    const url = await balance(t, await stack.gateway(1), await stack.gateway(2));
    const { client, events } = await connect(t, protocol, url, unique('user'));
    const { events: heard } = await subscribe(client, `kept:${room}`);
    const nats = await stack.nats();
    await stack.kill('gateway-1');
    for (let n = 0; n < 10; n += 1) await publish(nats, `tide.ch.kept.${room}`, String(n));
    await events.get('connected', { count: 2 });
    assert.equal((await heard.get('subscribed', { count: 2 })).recovered, true);
    for (let n = 0; n < 10; n += 1) {
      assert.equal(value((await heard.get('publication', { count: n + 1 })).data), n);
    }
    await stack.bringUp('gateway-1');
  });

  test(`${protocol.protocol}: past publications can be read`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { subscription } = await subscribe(client, `kept:${unique('room')}`);
    for (let n = 0; n < 5; n += 1) await subscription.publish(payload(n));
    const read = async (options) => (await subscription.history(options)).publications.map((p) => value(p.data));
    assert.deepEqual(await read({ limit: 10 }), [0, 1, 2, 3, 4]);
    assert.deepEqual(await read({ limit: 2, reverse: true }), [4, 3]);
    const { offset, epoch, publications } = await subscription.history({ limit: 0 });
    assert.deepEqual(publications, []);
    assert.deepEqual(await read({ limit: 10, since: { offset: offset - 1, epoch } }), [4]);
  });

  test(`${protocol.protocol}: patches come out as what was published`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const subscription = client.newSubscription(`kept:${unique('room')}`, { delta: 'fossil' });
    const heard = Events.of(subscription, 'subscribed', 'publication');
    subscription.subscribe();
    await heard.get('subscribed');
    const text = (n) => ({ match: 'Sharks against Whales, quarter final, second leg', score: n });
    for (let n = 0; n < 4; n += 1) {
      await subscription.publish(payload(text(n)));
      assert.deepEqual(value((await heard.get('publication', { count: n + 1 })).data), text(n));
    }
  });
}
