// Presence: members, joins and leaves.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { JSON_PROTOCOL, PROTOBUF, PROTOCOLS, connect, newSubscription, subscribe, tokenFor, unique } from './support/client.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

const told = { joinLeave: true };

for (const protocol of PROTOCOLS) {
  const { protocol: name } = protocol;

  test(`${name}: a burst of subscribes and unsubscribes leaves no members behind`, async (t) => {
    const channel = `room:${unique('presence')}`;
    const { client, events: connection } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const other = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const { subscription } = newSubscription(client, channel, told);
    for (let round = 0; round < 10; round += 1) {
      subscription.subscribe();
      subscription.unsubscribe();
    }
    const watching = newSubscription(other.client, channel, told);
    watching.subscription.subscribe();
    await watching.events.get('join');
    subscription.subscribe();
    await subscription.ready(5000);
    assert.deepEqual(await other.client.presenceStats(channel), { numClients: 2, numUsers: 2 });
    subscription.unsubscribe();
    while ((await other.client.presenceStats(channel)).numClients !== 1);
    assert.equal(connection.all('connecting').length, 1, 'the connection was never lost');
  });

  test(`${name}: presence that is off or not allowed is refused`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    for (const ask of [(channel) => client.presence(channel), (channel) => client.presenceStats(channel)]) {
      await assert.rejects(ask('chat:x'), { code: 108 });
      await assert.rejects(ask('nowhere:x'), { code: 102 });
      await assert.rejects(ask('veiled:x'), { code: 103 });
    }
  });
}

test('joins and leaves reach clients of the other protocol', async (t) => {
  const channel = `room:${unique('presence')}`;
  for (const [one, another] of [[JSON_PROTOCOL, PROTOBUF], [PROTOBUF, JSON_PROTOCOL]]) {
    const listener = await connect(t, one, await stack.gateway(1), unique('user'));
    const listening = newSubscription(listener.client, channel, told);
    listening.subscription.subscribe();
    await listening.events.get('join');
    const user = unique('user');
    const token = tokenFor(user, { claims: { info: [1, 'two'] } });
    const comer = await connect(t, another, await stack.gateway(2), user, { token });
    await subscribe(comer.client, channel);
    const where = ({ info }) => info.client === comer.id;
    const { info } = await listening.events.get('join', { where });
    assert.deepEqual(one.value(info.connInfo), [1, 'two']);
    comer.client.disconnect();
    const left = await listening.events.get('leave', { where });
    assert.deepEqual(left.info, info, 'the same is said of who leaves');
    listener.client.disconnect();
  }
});
