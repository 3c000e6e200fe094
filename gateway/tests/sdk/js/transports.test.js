// Streams, for networks without WebSockets: their commands are posted and reach the other gateway.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { JSON_PROTOCOL, connect, newClient, subscribe, tokenFor, unique } from './support/client.js';
import { Stack } from './support/stack.js';
import { STREAMS, failingOver, path } from './support/transports.js';

const stack = Stack.forThisFile();

for (const { name, transport, protocol } of STREAMS) {
  const { payload, value } = protocol;

  test(`${name}: a client is connected, has its personal channel, and receives nothing from channels it has left`, async (t) => {
    const [user, channel] = [unique('user'), `chat:${unique('room')}`];
    const { endpoints, options } = await failingOver(t, stack, transport);
    const { client, events } = await connect(t, protocol, endpoints, user, options);
    assert.equal(events.all('connected')[0].transport, transport);
    assert.equal((await events.get('subscribed')).channel, `#${user}`);
    const other = await connect(t, JSON_PROTOCOL, await stack.gateway(2), unique('user'));
    const { events: others } = await subscribe(other.client, channel);
    const { subscription, events: heard } = await subscribe(client, channel);
    subscription.unsubscribe();
    await client.rpc('echo', payload('the unsubscribe has been read'));
    await other.client.publish(channel, 'to nobody');
    await others.get('publication');
    assert.equal(heard.all('publication').length, 0);
  });

  test(`${name}: a foreign token ends with 3500, an expired one is replaced`, async (t) => {
    const { endpoints, options } = await failingOver(t, stack, transport);
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

test('a stream closes its socket at its end, and announces it', async () => {
  const gateway = await stack.gateway(1);
  for (const kind of ['uni_http_stream', 'uni_sse']) {
    const response = await fetch(path(gateway, `/connection/${kind}`), { method: 'POST', body: '{"token":"not-a-token"}' });
    assert.match(await response.text(), /3500/);
    assert.equal(response.headers.get('connection'), 'close');
  }
});

test('a client that cannot open a WebSocket falls back to a stream', async (t) => {
  const { endpoints, options } = await failingOver(t, stack, 'http_stream');
  const blocked = { transport: 'websocket', endpoint: path(endpoints[0].endpoint, '/not/a/websocket').replace('http', 'ws') };
  const { events } = await connect(t, JSON_PROTOCOL, [blocked, ...endpoints], unique('user'), options);
  assert.equal(events.all('connected')[0].transport, 'http_stream');
});
