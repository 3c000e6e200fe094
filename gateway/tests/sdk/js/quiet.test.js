// Channels without publications for longer than their history is kept, for applications that load their state themselves.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

import { PROTOCOLS, connect, subscribe, unique } from './support/client.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

for (const protocol of PROTOCOLS) {
  test(`${protocol.protocol}: a client subscribes with the position that its state has, however old it is`, async (t) => {
    const room = unique('room');
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { subscription, events } = await subscribe(client, `brief:${room}`);
    const nats = await stack.nats();
    await publish(nats, `tide.ch.brief.${room}`, '"the only one"');
    const { offset } = await events.get('publication');
    const { epoch } = (await events.get('subscribed')).streamPosition;
    const limit = AbortSignal.timeout(10_000);
    while ((await subscription.history({ limit: 1 })).publications.length > 0) {
      limit.throwIfAborted();
      await pause(50);
    }
    // Another channel goes on, so that the namespace has let go of everything that this one had.
    await publish(nats, `tide.ch.brief.${unique('other')}`, '1');
    for (const [channel, position] of [[room, { offset, epoch }], [unique('new'), { offset: 0, epoch }]]) {
      let asked = 0;
      const getState = () => {
        asked += 1;
        return position;
      };
      const other = await connect(t, protocol, await stack.gateway(2), unique('user'));
      const { events: seen } = await subscribe(other.client, `brief:${channel}`, { getState });
      const { recovered, wasRecovering } = await seen.get('subscribed');
      assert.deepEqual([recovered, wasRecovering, asked], [true, true, 1], channel);
      await publish(nats, `tide.ch.brief.${channel}`, '"next"');
      assert.equal(protocol.value((await seen.get('publication')).data), 'next');
    }
  });
}
