// Where a WebSocket does not get through: streams, whose commands are posted and land on the other gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EventSource } from 'eventsource';

import { balance } from './support/balancer.js';
import { JSON_PROTOCOL, PROTOBUF, connect, newClient, subscribe, tokenFor, unique } from './support/client.js';
import { publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

const TRANSPORTS = [
  { transport: 'http_stream', protocol: JSON_PROTOCOL },
  { transport: 'http_stream', protocol: PROTOBUF },
  { transport: 'sse', protocol: JSON_PROTOCOL },
];

/** A path of the gateway whose WebSocket has this address. */
function path(websocket, pathname) {
  return new URL(pathname, websocket.replace(/^ws/, 'http')).href;
}

/** What a client needs to stream from the first gateway that is there, and to post to the last. */
async function streaming(t, transport, options = {}) {
  const gateways = [await stack.gateway(1), await stack.gateway(2)];
  const streams = await balance(t, ...gateways);
  const posts = await balance(t, ...gateways.toReversed());
  return {
    endpoints: [{ transport, endpoint: path(streams, `/connection/${transport}`) }],
    options: {
      fetch,
      readableStream: ReadableStream,
      eventsource: EventSource,
      emulationEndpoint: path(posts, '/emulation'),
      ...options,
    },
  };
}

for (const { transport, protocol } of TRANSPORTS) {
  const name = `${transport}, ${protocol.protocol}`;
  const { payload, value } = protocol;

  test(`${name}: a client is connected, has its personal channel, and is answered`, async (t) => {
    const user = unique('user');
    const { endpoints, options } = await streaming(t, transport);
    const { client, events } = await connect(t, protocol, endpoints, user, options);
    assert.equal(events.all('connected')[0].transport, transport);
    assert.equal((await events.get('subscribed')).channel, `#${user}`);
    const calls = Array.from({ length: 20 }, (_, number) => client.rpc('echo', payload({ number, text: '"ä"' })));
    const answers = await Promise.all(calls);
    assert.deepEqual(
      answers.map(({ data }) => value(data)),
      Array.from({ length: 20 }, (_, number) => ({ number, text: '"ä"' })),
    );
    await assert.rejects(client.rpc('nothing', payload(1)), { code: 104 });
  });

  test(`${name}: publications go both ways between it and a client with a WebSocket`, async (t) => {
    const channel = `chat:${unique('room')}`;
    const { endpoints, options } = await streaming(t, transport);
    const streamer = await connect(t, protocol, endpoints, unique('user'), options);
    const other = await connect(t, JSON_PROTOCOL, await stack.gateway(2), unique('user'));
    const { subscription, events: heard } = await subscribe(streamer.client, channel);
    const { events: others } = await subscribe(other.client, channel);

    await other.client.publish(channel, 'to the stream');
    assert.equal(value((await heard.get('publication')).data), 'to the stream');
    await streamer.client.publish(channel, payload('from the stream'));
    assert.equal((await others.get('publication', { count: 2 })).data, 'from the stream');
    assert.equal(value((await heard.get('publication', { count: 2 })).data), 'from the stream');

    subscription.unsubscribe();
    await streamer.client.rpc('echo', payload('the unsubscribe has been read'));
    await other.client.publish(channel, 'to nobody');
    await others.get('publication', { count: 3 });
    assert.equal(heard.all('publication').length, 2);
  });

  test(`${name}: after a gateway's kill -9 the client comes back and hears what is published`, async (t) => {
    const room = unique('room');
    const { endpoints, options } = await streaming(t, transport);
    const { client, events, user, id } = await connect(t, protocol, endpoints, unique('user'), options);
    const { events: heard } = await subscribe(client, `chat:${room}`);
    const nats = await stack.nats();

    await stack.kill('gateway-1');
    assert.notEqual((await events.get('connected', { count: 2 })).client, id);
    await heard.get('subscribed', { count: 2 });

    await publish(nats, `tide.ch.chat.${room}`, '"in the room"');
    await publish(nats, `tide.ch.user.${user}`, '"in person"');
    assert.equal(value((await heard.get('publication')).data), 'in the room');
    assert.equal(value((await events.get('publication')).data), 'in person');
    assert.equal(value((await client.rpc('echo', payload('and asks'))).data), 'and asks');
    await stack.bringUp('gateway-1');
  });

  test(`${name}: a gateway that is asked to end closes with 3001 and its clients move on`, async (t) => {
    const { endpoints, options } = await streaming(t, transport);
    const { client, events } = await connect(t, protocol, endpoints, unique('user'), options);
    const ended = stack.drain('gateway-1');
    assert.deepEqual(await events.get('connecting', { count: 2 }), { code: 3001, reason: 'shutdown' });
    await events.get('connected', { count: 2 });
    assert.equal(value((await client.rpc('echo', payload('elsewhere'))).data), 'elsewhere');
    await ended;
    await stack.bringUp('gateway-1');
  });

  test(`${name}: a token that is not ours ends with 3500, one that has expired is replaced`, async (t) => {
    const { endpoints, options } = await streaming(t, transport);
    const eve = newClient(t, protocol, endpoints, { ...options, token: 'not-a-token' });
    eve.client.connect();
    assert.deepEqual(await eve.events.get('disconnected'), { code: 3500, reason: 'invalid token' });

    const user = unique('user');
    const late = { token: tokenFor(user, { seconds: -60 }), getToken: async () => tokenFor(user) };
    const { client, events } = newClient(t, protocol, endpoints, { ...options, ...late });
    client.connect();
    await events.get('connected');
    assert.equal(value((await client.rpc('echo', payload('known'))).data), 'known');
  });
}

test('a client that cannot open a WebSocket falls back to a stream', async (t) => {
  const { endpoints, options } = await streaming(t, 'http_stream');
  const blocked = { transport: 'websocket', endpoint: path(endpoints[0].endpoint, '/not/a/websocket').replace('http', 'ws') };
  const { events } = await connect(t, JSON_PROTOCOL, [blocked, ...endpoints], unique('user'), options);
  assert.equal(events.all('connected')[0].transport, 'http_stream');
});
