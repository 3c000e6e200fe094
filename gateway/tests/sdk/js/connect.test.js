// Authentication and expiry of connections.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';

import WebSocket from 'ws';

import { PROTOCOLS, connect, newClient, tokenFor, unique } from './support/client.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

for (const protocol of PROTOCOLS) {
  test(`${protocol.protocol}: a client with a token is connected and has its personal channel`, async (t) => {
    const user = unique('user');
    const { client, events } = newClient(t, protocol, await stack.gateway(1), { token: await stack.token(user) });
    client.connect();
    const connected = await events.get('connected');
    assert.match(connected.client, /^\S+\.\S+$/);
    assert.equal(connected.transport, 'websocket');
    assert.equal((await events.get('subscribed')).channel, `#${user}`);
    await client.ready();
    assert.equal(client.state, 'connected');
  });

  test(`${protocol.protocol}: an expired token makes the client fetch a new one`, async (t) => {
    const user = unique('user');
    let asked = 0;
    const { client, events } = newClient(t, protocol, await stack.gateway(1), {
      token: tokenFor(user, { seconds: -60 }),
      getToken: async () => {
        asked += 1;
        return tokenFor(user);
      },
    });
    client.connect();
    await events.get('connected');
    assert.equal(asked, 1);
    assert.equal((await events.get('error')).error.code, 109);
  });

  test(`${protocol.protocol}: a token is refreshed before its end and the connection lives on`, async (t) => {
    const user = unique('user');
    const url = await stack.gateway(1);
    const short = () => tokenFor(user, { seconds: 3 });
    let asked = 0;
    const { client, events } = newClient(t, protocol, url, {
      token: short(),
      getToken: async () => {
        asked += 1;
        return tokenFor(user);
      },
    });
    client.connect();
    const { client: id } = await events.get('connected');
    // Opened later with an equally short token: when it is closed, the other client's first token has expired.
    assert.equal(await closeCodeWithoutRefresh(t, url, short()), 3005);
    assert.equal(asked, 1);
    const { data } = await client.rpc('echo', protocol.payload('still here'));
    assert.equal(protocol.value(data), 'still here');
    assert.deepEqual(events.all('connected').map((context) => context.client), [id]);
    assert.equal(events.all('connecting').length, 1);
  });

  for (const [what, token] of [
    ['signed with another key', () => tokenFor('eve', { secret: 'another secret, as long as the right one' })],
    ['that is no token', () => 'not-a-token'],
    ['with another user written into it', () => forged(tokenFor('eve'))],
  ]) {
    test(`${protocol.protocol}: a token ${what} ends with 3500`, async (t) => {
      const { client, events } = newClient(t, protocol, await stack.gateway(1), { token: token() });
      client.connect();
      const disconnected = await events.get('disconnected');
      assert.deepEqual(disconnected, { code: 3500, reason: 'invalid token' });
      assert.deepEqual(events.all('connected'), []);
    });
  }

  test(`${protocol.protocol}: a client without a token is refused`, async (t) => {
    const { client, events } = newClient(t, protocol, await stack.gateway(1));
    client.connect();
    assert.equal((await events.get('disconnected')).code, 3501);
    assert.deepEqual(events.all('connected'), []);
  });

  test(`${protocol.protocol}: a client that has disconnected can connect again`, async (t) => {
    const { client, events } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    client.disconnect();
    client.connect();
    const again = await events.get('connected', { count: 2 });
    assert.notEqual(again.client, events.all('connected')[0].client);
    const { data } = await client.rpc('echo', protocol.payload(1));
    assert.equal(protocol.value(data), 1);
  });
}

/** The close code of a connection whose client sends only the connect command. */
async function closeCodeWithoutRefresh(t, url, token) {
  const socket = new WebSocket(url);
  t.after(() => socket.terminate());
  await once(socket, 'open');
  socket.send(JSON.stringify({ id: 1, connect: { token } }));
  const [code] = await once(socket, 'close', { signal: AbortSignal.timeout(15_000) });
  return code;
}

function forged(token) {
  const [head, body, signature] = token.split('.');
  const claims = JSON.parse(Buffer.from(body, 'base64url').toString());
  const other = Buffer.from(JSON.stringify({ ...claims, sub: 'admin' })).toString('base64url');
  return [head, other, signature].join('.');
}
