// Presence: who is in a channel, and who comes and leaves.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { JSON_PROTOCOL, PROTOBUF, PROTOCOLS, connect, newSubscription, subscribe, tokenFor, unique } from './support/client.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

const told = { joinLeave: true };

for (const protocol of PROTOCOLS) {
  const { protocol: name, value } = protocol;

  test(`${name}: presence and its figures are the same on both gateways, also for who is not in the channel`, async (t) => {
    const channel = `room:${unique('presence')}`;
    const user = unique('user');
    const token = tokenFor(user, { claims: { info: { name: 'Ada' } } });
    const here = await connect(t, protocol, await stack.gateway(1), user, { token });
    const again = await connect(t, protocol, await stack.gateway(2), user);
    const other = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const stranger = await connect(t, protocol, await stack.gateway(1), unique('user'));
    assert.deepEqual((await stranger.client.presence(channel)).clients, {});
    assert.deepEqual(await stranger.client.presenceStats(channel), { numClients: 0, numUsers: 0 });
    const { subscription } = await subscribe(here.client, channel);
    assert.deepEqual(Object.keys((await subscription.presence()).clients), [here.id], 'itself, at once');
    await subscribe(again.client, channel);
    await subscribe(other.client, channel);
    for (const { client } of [here, other, stranger]) {
      const { clients } = await client.presence(channel);
      assert.deepEqual(Object.keys(clients).sort(), [here.id, again.id, other.id].sort());
      assert.equal(clients[here.id].user, user);
      assert.equal(clients[here.id].client, here.id);
      assert.deepEqual(value(clients[here.id].connInfo), { name: 'Ada' });
      assert.deepEqual(await client.presenceStats(channel), { numClients: 3, numUsers: 2 });
    }
  });

  test(`${name}: who asked is told who comes and leaves, itself first`, async (t) => {
    const channel = `room:${unique('presence')}`;
    const here = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const there = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const listening = newSubscription(here.client, channel, told);
    listening.subscription.subscribe();
    const own = await listening.events.get('join');
    assert.equal(own.info.client, here.id);
    const silent = await subscribe(there.client, channel);
    const joined = await listening.events.get('join', { count: 2 });
    assert.deepEqual([joined.channel, joined.info.client, joined.info.user], [channel, there.id, there.user]);
    there.client.disconnect();
    assert.equal((await listening.events.get('leave')).info.client, there.id);
    assert.equal(listening.events.all('join').length, 2);
    assert.equal(silent.events.all('join').length, 0, 'nobody who did not ask');
  });

  test(`${name}: a burst of subscribing and unsubscribing leaves nobody behind`, async (t) => {
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

  test(`${name}: what is off or not allowed is refused`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    for (const ask of [(channel) => client.presence(channel), (channel) => client.presenceStats(channel)]) {
      await assert.rejects(ask('chat:x'), { code: 108 });
      await assert.rejects(ask('nowhere:x'), { code: 102 });
      await assert.rejects(ask('veiled:x'), { code: 103 });
    }
  });
}

test('what comes in one protocol is told in the other', async (t) => {
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
