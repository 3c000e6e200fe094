// What services do to connections, by one message over NATS, and what the SDK makes of it.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { PROTOCOLS, connect, newClient, newSubscription, subscribe, tokenFor, unique } from './support/client.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

/** Tells the gateways, without waiting for an answer. */
async function order(method, body) {
  await publish(await stack.nats(), `tide.ctl.${method}`, JSON.stringify(body));
}

for (const protocol of PROTOCOLS) {
  const { value } = protocol;

  test(`${protocol.protocol}: a refreshed user brings a fresh token and goes on`, async (t) => {
    const user = unique('user');
    let fetched = 0;
    const getToken = async () => {
      fetched += 1;
      return tokenFor(user, { claims: { info: { version: fetched } } });
    };
    const { client, events } = newClient(t, protocol, await stack.gateway(1), { getToken });
    const channel = `chat:${unique('room')}`;
    const heard = newSubscription(client, channel);
    heard.subscription.subscribe();
    client.connect();
    await heard.events.get('subscribed');
    assert.equal(fetched, 1);

    await order('refresh', { user });
    const { code } = await events.get('connecting', { count: 2 });
    assert.equal(code, 3014);
    await heard.events.get('subscribed', { count: 2 });
    assert.equal(fetched, 2, 'the token it had is thrown away, though it was still good');
    await heard.subscription.publish(protocol.payload(1));
    const { info } = await heard.events.get('publication');
    assert.deepEqual(value(info.connInfo), { version: 2 });
  });

  test(`${protocol.protocol}: a user that is disconnected stays away, on every gateway, and others stay`, async (t) => {
    const user = unique('user');
    const both = [
      await connect(t, protocol, await stack.gateway(1), user),
      await connect(t, protocol, await stack.gateway(2), user),
    ];
    const other = await connect(t, protocol, await stack.gateway(1), unique('user'));
    await order('disconnect', { user });
    for (const { client, events } of both) {
      const { code, reason } = await events.get('disconnected');
      assert.deepEqual([code, reason], [3503, 'force disconnect']);
      assert.equal(client.state, 'disconnected');
    }
    assert.equal(other.client.state, 'connected');
  });

  test(`${protocol.protocol}: a subscription ends, or is asked for again with a fresh token`, async (t) => {
    const { client, user } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const open = `chat:${unique('room')}`;
    const { subscription, events } = await subscribe(client, open);
    await order('unsubscribe', { user, channel: open });
    const { code } = await events.get('unsubscribed');
    assert.equal(code, 2000);
    assert.equal(subscription.state, 'unsubscribed');

    const closed = `chat:$${unique('room')}`;
    let fetched = 0;
    const getToken = async () => {
      fetched += 1;
      return tokenFor(user, { claims: { channel: closed } });
    };
    const again = newSubscription(client, closed, { getToken });
    again.subscription.subscribe();
    await again.events.get('subscribed');
    await order('unsubscribe', { user, channel: closed, code: 2502 });
    await again.events.get('subscribed', { count: 2 });
    assert.equal(fetched, 2);
  });

  test(`${protocol.protocol}: a service makes a subscription that the client may not ask for`, async (t) => {
    const { events, user } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const room = unique('room');
    const channel = `secret:${room}`;
    await order('subscribe', { user, channel, data: { role: 'guest' } });
    const subscribed = await events.get('subscribed', { where: (context) => context.channel === channel });
    assert.deepEqual(value(subscribed.data), { role: 'guest' });
    await publish(await stack.nats(), `tide.ch.secret.${room}`, '1');
    assert.equal(value((await events.get('publication')).data), 1);
    await order('unsubscribe', { user, channel });
    await events.get('unsubscribed', { where: (context) => context.channel === channel });
  });
}
