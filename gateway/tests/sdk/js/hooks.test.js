// Decisions of back ends, seen from the SDK.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { PROTOCOLS, connect, newClient, newSubscription, unique } from './support/client.js';
import { answer } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile({ TIDEGATE_HOOKS__CONNECT: 'true' });

for (const protocol of PROTOCOLS) {
  const { payload, value } = protocol;

  test(`${protocol.protocol}: a client without a token connects as the user that a back end names`, async (t) => {
    const user = unique('user');
    const asked = await answer(t, await stack.nats(), 'tide.hook.connect', () => {
      return { result: { user, data: { plan: 'free' }, channels: ['chat:everybody'] } };
    });
    const { client, events } = newClient(t, protocol, await stack.gateway(1), { data: payload({ cookie: 'c' }) });
    client.connect();
    const connected = await events.get('connected');
    assert.deepEqual(value(connected.data), { plan: 'free' });
    assert.deepEqual(asked[0].data, { cookie: 'c' });
    assert.equal(asked[0].client, connected.client);
    await events.get('subscribed', { where: ({ channel }) => channel === 'chat:everybody' });
    await events.get('subscribed', { where: ({ channel }) => channel === `#${user}` });
  });

  test(`${protocol.protocol}: a client that is refused does not reconnect`, async (t) => {
    const verdicts = [
      [{ error: { code: 1403, message: 'not you' } }, 1403, 'not you'],
      [{ disconnect: { code: 4501, reason: 'go away' } }, 4501, 'go away'],
    ];
    let verdict;
    const asked = await answer(t, await stack.nats(), 'tide.hook.connect', () => verdict);
    for (const [says, code, reason] of verdicts) {
      verdict = says;
      const { client, events } = newClient(t, protocol, await stack.gateway(1));
      client.connect();
      const disconnected = await events.get('disconnected');
      assert.deepEqual([disconnected.code, disconnected.reason], [code, reason]);
    }
    assert.equal(asked.length, verdicts.length);
  });

  test(`${protocol.protocol}: a client without a decision reconnects until there is one`, async (t) => {
    const { client, events } = newClient(t, protocol, await stack.gateway(1), { maxReconnectDelay: 200 });
    client.connect();
    assert.equal((await events.get('error')).error.code, 100);
    await answer(t, await stack.nats(), 'tide.hook.connect', () => ({ result: { user: '42' } }));
    await events.get('connected');
  });

  test(`${protocol.protocol}: a subscription without a decision is retried until there is one`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { subscription, events } = newSubscription(client, `asked:${unique('room')}`);
    subscription.subscribe();
    assert.equal((await events.get('error')).error.code, 100);
    await answer(t, await stack.nats(), 'tide.hook.subscribe', () => ({ result: {} }));
    await events.get('subscribed');
  });
}
