// Channels: subscribing, publishing, and what services publish.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  JSON_PROTOCOL, PROTOBUF, PROTOCOLS, connect, newClient, newSubscription, recordingSocket, subscribe, tokenFor, unique,
} from './support/client.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

for (const protocol of PROTOCOLS) {
  const { payload, value } = protocol;

  test(`${protocol.protocol}: a publication reaches subscribers on both gateways, with its publisher`, async (t) => {
    const channel = `chat:${unique('room')}`;
    const here = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const there = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const subscriptions = [await subscribe(here.client, channel), await subscribe(there.client, channel)];
    await here.client.publish(channel, payload({ text: 'hi' }));
    for (const { events } of subscriptions) {
      const publication = await events.get('publication');
      assert.equal(publication.channel, channel);
      assert.deepEqual(value(publication.data), { text: 'hi' });
      assert.equal(publication.info.user, here.user);
      assert.equal(publication.info.client, here.id);
    }
  });

  test(`${protocol.protocol}: publications of one client arrive in the order they were sent`, async (t) => {
    const channel = `chat:${unique('room')}`;
    const sender = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const receiver = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const { events } = await subscribe(receiver.client, channel);
    const numbers = Array.from({ length: 100 }, (_, number) => number);
    await Promise.all(numbers.map((number) => sender.client.publish(channel, payload(number))));
    await events.get('publication', { count: 100 });
    assert.deepEqual(events.all('publication').map(({ data }) => value(data)), numbers);
  });

  test(`${protocol.protocol}: a client may publish through its subscription`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { subscription, events } = await subscribe(client, `chat:${unique('room')}`);
    await subscription.publish(payload('to myself too'));
    assert.equal(value((await events.get('publication')).data), 'to myself too');
  });

  test(`${protocol.protocol}: a publish that is not allowed is refused with 103`, async (t) => {
    const { client, user } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    for (const channel of ['news:today', 'lobby', `#${user}`, '#somebody-else']) {
      await assert.rejects(client.publish(channel, payload(1)), { code: 103, message: 'permission denied' }, channel);
    }
  });

  test(`${protocol.protocol}: a publish to a namespace that does not exist is refused with 102`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    await assert.rejects(client.publish('nowhere:x', payload(1)), { code: 102, message: 'unknown channel' });
  });

  test(`${protocol.protocol}: a subscription that is not allowed ends unsubscribed, with the reason`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    for (const [channel, code] of [['nowhere:x', 102], ['secret:x', 103], ['#somebody-else', 103], ['default:x', 107]]) {
      const { subscription, events } = newSubscription(client, channel);
      subscription.subscribe();
      assert.equal((await events.get('unsubscribed')).code, code, channel);
      assert.equal(client.state, 'connected');
    }
  });

  test(`${protocol.protocol}: features that a namespace has not or does not allow are refused`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { subscription } = await subscribe(client, `chat:${unique('room')}`);
    await assert.rejects(subscription.history({ limit: 1 }), { code: 103 });
    await assert.rejects(subscription.presence(), { code: 108 });
    await assert.rejects(subscription.presenceStats(), { code: 108 });
  });

  test(`${protocol.protocol}: subscriptions made before connecting are sent in the first frame`, async (t) => {
    const { frames, RecordingSocket } = recordingSocket();
    const options = { token: tokenFor(unique('user')), websocket: RecordingSocket };
    const { client } = newClient(t, protocol, await stack.gateway(1), options);
    const channels = Array.from({ length: 5 }, () => `chat:${unique('room')}`);
    const subscriptions = channels.map((channel) => newSubscription(client, channel));
    for (const { subscription } of subscriptions) subscription.subscribe();
    client.connect();
    for (const { events } of subscriptions) await events.get('subscribed');
    assert.equal(frames.length, 1);
    await client.publish(channels[4], payload(5));
    assert.equal(value((await subscriptions[4].events.get('publication')).data), 5);
  });

  test(`${protocol.protocol}: subscribing twice is one subscription`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const channel = `chat:${unique('room')}`;
    const { subscription, events } = newSubscription(client, channel);
    subscription.subscribe();
    subscription.subscribe();
    await events.get('subscribed');
    subscription.subscribe();
    assert.throws(() => client.newSubscription(channel));
    await client.publish(channel, payload(1));
    await client.publish(channel, payload(2));
    await events.get('publication', { count: 2 });
    assert.deepEqual(events.all('publication').map(({ data }) => value(data)), [1, 2]);
    assert.equal(events.all('subscribed').length, 1);
  });

  test(`${protocol.protocol}: after a burst of subscribes and unsubscribes the last call decides`, async (t) => {
    const { client, events: connection } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const other = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const [kept, left, last] = ['kept', 'left', 'last'].map((name) => `chat:${unique(name)}`);
    const on = newSubscription(client, kept);
    const off = newSubscription(client, left);
    for (let round = 0; round < 10; round += 1) {
      on.subscription.subscribe();
      on.subscription.unsubscribe();
      off.subscription.subscribe();
      off.subscription.unsubscribe();
    }
    on.subscription.subscribe();
    await on.subscription.ready(5000);
    const behind = await subscribe(client, last);
    for (const channel of [kept, left, last]) await other.client.publish(channel, payload(channel));
    await behind.events.get('publication');
    await on.events.get('publication');
    assert.equal(on.events.all('publication').length, 1);
    assert.equal(off.events.all('publication').length, 0);
    assert.equal(off.subscription.state, 'unsubscribed');
    assert.equal(connection.all('connecting').length, 1, 'the connection was never lost');
  });

  test(`${protocol.protocol}: after a burst that waits for every step the last call decides`, async (t) => {
    const { client, events: connection } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const stays = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const channel = `chat:${unique('room')}`;
    const { subscription, events } = newSubscription(client, channel);
    const witness = await subscribe(stays.client, channel);
    for (let round = 1; round <= 10; round += 1) {
      subscription.subscribe();
      await events.get('subscribed', { count: round });
      await client.publish(channel, payload(round));
      await events.get('publication', { count: round });
      subscription.unsubscribe();
      await client.publish(channel, payload('while away'));
      // Stored does not mean delivered: the next round begins when the publication has passed this gateway's subscribers.
      await witness.events.get('publication', { count: 2 * round });
    }
    assert.deepEqual(events.all('publication').map(({ data }) => value(data)), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert.equal(connection.all('connecting').length, 1, 'the connection was never lost');
  });

  test(`${protocol.protocol}: a service publishes in a channel with plain NATS`, async (t) => {
    const room = unique('room');
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const { events } = await subscribe(client, `news:${room}`);
    await publish(await stack.nats(), `tide.ch.news.${room}`, '{"flood":true}', { 'Tide-Tag-region': 'north' });
    const publication = await events.get('publication');
    assert.deepEqual(value(publication.data), { flood: true });
    assert.deepEqual(publication.tags, { region: 'north' });
    assert.equal(publication.info, undefined);
  });

  test(`${protocol.protocol}: a service reaches every connection of one user with plain NATS`, async (t) => {
    const user = unique('user');
    const connections = [
      await connect(t, protocol, await stack.gateway(1), user),
      await connect(t, protocol, await stack.gateway(2), user),
    ];
    const stranger = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const nats = await stack.nats();
    await publish(nats, `tide.ch.user.${user}`, '{"for":"one"}');
    await publish(nats, `tide.ch.user.${stranger.user}`, '{"for":"other"}');
    for (const { events } of connections) {
      const publication = await events.get('publication');
      assert.equal(publication.channel, `#${user}`);
      assert.deepEqual(value(publication.data), { for: 'one' });
    }
    assert.deepEqual(value((await stranger.events.get('publication')).data), { for: 'other' });
    assert.equal(stranger.events.all('publication').length, 1);
  });

  test(`${protocol.protocol}: a service pushes a message to one connection, and to everybody`, async (t) => {
    const one = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const other = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const nats = await stack.nats();
    const [direct, all] = [unique('direct'), unique('all')];
    await publish(nats, `tide.push.client.${one.id}`, JSON.stringify(direct));
    await publish(nats, 'tide.push.all', JSON.stringify(all));
    const has = (text) => ({ where: ({ data }) => value(data) === text });
    await one.events.get('message', has(direct));
    await one.events.get('message', has(all));
    await other.events.get('message', has(all));
    assert.ok(!other.events.all('message').some(has(direct).where));
  });
}

test('a JSON client and a protobuf client talk to each other', async (t) => {
  const channel = `chat:${unique('room')}`;
  const json = await connect(t, JSON_PROTOCOL, await stack.gateway(1), unique('user'));
  const protobuf = await connect(t, PROTOBUF, await stack.gateway(2), unique('user'));
  const toJson = await subscribe(json.client, channel);
  const toProtobuf = await subscribe(protobuf.client, channel);
  await json.client.publish(channel, { from: 'json' });
  assert.deepEqual(PROTOBUF.value((await toProtobuf.events.get('publication')).data), { from: 'json' });
  await protobuf.client.publish(channel, PROTOBUF.payload({ from: 'protobuf' }));
  assert.deepEqual((await toJson.events.get('publication', { count: 2 })).data, { from: 'protobuf' });
});

test('a payload that is not JSON reaches JSON clients as text, and bytes that are no text as base64', async (t) => {
  const room = unique('room');
  const { client } = await connect(t, JSON_PROTOCOL, await stack.gateway(1), unique('user'));
  const { events } = await subscribe(client, `news:${room}`);
  const nats = await stack.nats();
  await publish(nats, `tide.ch.news.${room}`, 'hello');
  await publish(nats, `tide.ch.news.${room}`, Buffer.from([0xff, 0x00, 0xfe]));
  await events.get('publication', { count: 2 });
  const [text, bytes] = events.all('publication');
  assert.equal(text.data, 'hello');
  assert.equal(bytes.data, Buffer.from([0xff, 0x00, 0xfe]).toString('base64'));
  assert.equal(bytes.tags.encoding, 'base64');
});
