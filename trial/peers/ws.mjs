// A server over npm `ws` that speaks as much of the Centrifuge protocol (JSON) as the trial needs: token, channels, publications,
// pings. Nothing is kept. A publication is encoded once for all its receivers.
import { createHmac, timingSafeEqual } from 'node:crypto';
import { WebSocketServer } from 'ws';

const { PORT, SECRET } = process.env;
const PING = 25_000;
const channels = new Map();
const clients = new Set();

function user(token) {
  const [head, body, signature] = token.split('.');
  const expected = createHmac('sha256', SECRET).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature ?? '', 'base64url');
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
  const claims = JSON.parse(Buffer.from(body, 'base64url'));
  return claims.exp * 1000 > Date.now() ? claims.sub : null;
}

function subscribe(client, channel) {
  if (!channels.has(channel)) channels.set(channel, new Set());
  channels.get(channel).add(client);
  client.channels.push(channel);
}

function publish(channel, data) {
  const message = Buffer.from(JSON.stringify({ push: { channel, pub: { data } } }));
  for (const client of channels.get(channel) ?? []) client.send(message, { binary: false });
}

function carryOut(client, { id, connect, subscribe: subscription, publish: publication }) {
  if (connect) {
    client.user = user(connect.token ?? '');
    if (!client.user) return client.close(3500, 'invalid token');
    clients.add(client);
    subscribe(client, `#${client.user}`);
    return client.send(JSON.stringify({ id, connect: { client: client.user, ping: PING / 1000, pong: true } }));
  }
  if (!client.user) return client.close(3501, 'bad request');
  if (subscription) {
    subscribe(client, subscription.channel);
    return client.send(JSON.stringify({ id, subscribe: {} }));
  }
  if (publication) {
    publish(publication.channel, publication.data);
    return client.send(JSON.stringify({ id, publish: {} }));
  }
}

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(PORT), backlog: 4096, perMessageDeflate: false });
server.on('connection', (client) => {
  client.channels = [];
  client.on('message', (text) => {
    for (const line of text.toString().split('\n')) {
      if (line !== '' && line !== '{}') carryOut(client, JSON.parse(line));
    }
  });
  client.on('error', () => {});
  client.on('close', () => {
    clients.delete(client);
    for (const channel of client.channels) channels.get(channel)?.delete(client);
  });
});

// Every connection gets its ping once in PING, spread over the interval.
const slices = 250;
let slice = 0;
setInterval(() => {
  let number = 0;
  for (const client of clients) if (number++ % slices === slice) client.send('{}');
  slice = (slice + 1) % slices;
}, PING / slices);
