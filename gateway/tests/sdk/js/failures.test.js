// Killed and draining gateways, over every transport: clients reconnect, and recovered subscriptions miss nothing.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { PROTOCOLS, connect, subscribe, unique } from './support/client.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';
import { TRANSPORTS, failingOver } from './support/transports.js';

const stack = Stack.forThisFile();

for (const { name, transport, protocol } of TRANSPORTS) {
  const { payload, value } = protocol;

  test(`${name}: after a gateway's kill -9 nothing is missing and everything works`, async (t) => {
    const room = unique('room');
    const { endpoints, options } = await failingOver(t, stack, transport);
    const { client, events, user, id } = await connect(t, protocol, endpoints, unique('user'), options);
    const { events: heard } = await subscribe(client, `chat:${room}`);
    const { events: kept } = await subscribe(client, `kept:${room}`);
    const nats = await stack.nats();

    await stack.kill('gateway-1');
    for (let n = 0; n < 10; n += 1) await publish(nats, `tide.ch.kept.${room}`, String(n));
    assert.notEqual((await events.get('connected', { count: 2 })).client, id);
    await heard.get('subscribed', { count: 2 });
    assert.equal((await kept.get('subscribed', { count: 2 })).recovered, true);
    await kept.get('publication', { count: 10 });
    assert.deepEqual(kept.all('publication').map(({ data }) => value(data)), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);

    await publish(nats, `tide.ch.chat.${room}`, '"in the room"');
    await publish(nats, `tide.ch.user.${user}`, '"in person"');
    assert.equal(value((await heard.get('publication')).data), 'in the room');
    assert.equal(value((await events.get('publication')).data), 'in person');
    assert.equal(value((await client.rpc('echo', payload('and asks'))).data), 'and asks');
    await stack.bringUp('gateway-1');
  });

  test(`${name}: a draining gateway closes with 3001 and its clients reconnect elsewhere`, async (t) => {
    const channel = `chat:${unique('room')}`;
    const { endpoints, options } = await failingOver(t, stack, transport);
    const { client, events } = await connect(t, protocol, endpoints, unique('user'), options);
    const { events: heard } = await subscribe(client, channel);

    const ended = stack.drain('gateway-1');
    const moved = await events.get('connecting', { count: 2 });
    assert.deepEqual(moved, { code: 3001, reason: 'shutdown' });
    await events.get('connected', { count: 2 });
    await heard.get('subscribed', { count: 2 });
    await client.publish(channel, payload('from the other gateway'));
    assert.equal(value((await heard.get('publication')).data), 'from the other gateway');

    await ended;
    assert.equal((await stack.processes()).find((process) => process.name === 'gateway-1').phase, 'stopped');
    await stack.bringUp('gateway-1');
  });
}

for (const protocol of PROTOCOLS) {
  const { payload, value } = protocol;

  test(`${protocol.protocol}: a client with one gateway reconnects when the gateway is started again`, async (t) => {
    const channel = `chat:${unique('room')}`;
    const { client, events } = await connect(t, protocol, await stack.gateway(2), unique('user'), { maxReconnectDelay: 200 });
    const other = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { events: heard } = await subscribe(client, channel);

    await stack.kill('gateway-2');
    await events.get('connected', { count: 2, limit: 30_000 });
    await heard.get('subscribed', { count: 2 });
    await other.client.publish(channel, payload('welcome back'));
    assert.equal(value((await heard.get('publication')).data), 'welcome back');
    await stack.bringUp('gateway-2');
  });

  test(`${protocol.protocol}: a call that waits when its gateway ends gets its answer or error 1001`, async (t) => {
    const { client, events } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const calls = Array.from({ length: 50 }, (_, number) => client.rpc('echo', payload(number)));
    const waiting = client.rpc('greet', payload('nobody answers')).catch((error) => error);
    // The gateway answers in the order of its work: this answer shows that it has read the other commands.
    await calls.at(-1);
    const ended = stack.drain('gateway-1');
    const answers = await Promise.all(calls);
    assert.deepEqual(answers.map(({ data }) => value(data)), Array.from({ length: 50 }, (_, number) => number));
    assert.equal((await waiting).code, 1001);
    assert.equal((await events.get('connecting', { count: 2 })).code, 3001);
    client.disconnect();
    await ended;
    await stack.bringUp('gateway-1');
  });

  test(`${protocol.protocol}: a request is answered though a worker is killed meanwhile`, async (t) => {
    const { client, events } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const receipts = Promise.all(Array.from({ length: 50 }, (_, number) => client.rpc('later.echo', payload(number))));
    await stack.kill('worker-1');
    const ids = (await receipts).map(({ data }) => value(data).id);
    await events.get('publication', { count: 50, limit: 60_000 });
    const answered = events.all('publication').map(({ tags }) => tags.re);
    assert.deepEqual(new Set(answered), new Set(ids));
    await stack.bringUp('worker-1');
  });
}
