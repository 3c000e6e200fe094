// A load balancer, as in production: its own addresses, and behind them any gateway that accepts a connection.

import { once } from 'node:events';
import { connect, createServer } from 'node:net';

/** Returns one address. A new connection goes to the first of `urls` that accepts it. */
export async function balance(t, ...urls) {
  const { url } = await listen(t, urls, () => 0);
  return url;
}

/**
 * Two addresses. Connections to `streams` take turns at `urls`; those to `posts` go to a gateway other than the newest stream's.
 * While the action given to `away` runs, all connections are cut and no new one is accepted.
 */
export async function takeTurns(t, ...urls) {
  let turns = 0;
  const streams = await listen(t, urls, () => turns++);
  const posts = await listen(t, urls, () => turns);
  return {
    streams: streams.url,
    posts: posts.url,
    async away(action) {
      for (const address of [streams, posts]) address.close();
      await action();
      for (const address of [streams, posts]) address.open();
    },
  };
}

/** Listens until the test ends. `first` returns the index in `urls` that a new connection tries first. */
async function listen(t, urls, first) {
  const backends = urls.map((url) => new URL(url));
  const clients = new Set();
  let closed = false;
  const cut = () => clients.forEach((client) => client.destroy());
  const server = createServer((client) => {
    clients.add(client);
    client.on('close', () => clients.delete(client));
    client.on('error', () => {});
    if (closed) {
      client.destroy();
      return;
    }
    const from = first() % backends.length;
    forward(client, [...backends.slice(from), ...backends.slice(0, from)]);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.close();
    cut();
  });
  return {
    url: `ws://127.0.0.1:${server.address().port}${backends[0].pathname}`,
    close() {
      closed = true;
      cut();
    },
    open() {
      closed = false;
    },
  };
}

function forward(client, [backend, ...others]) {
  if (!backend) {
    client.destroy();
    return;
  }
  const upstream = connect(Number(backend.port), backend.hostname);
  const refused = () => forward(client, others);
  upstream.once('error', refused);
  upstream.once('connect', () => {
    upstream.off('error', refused);
    upstream.on('error', () => client.destroy());
    upstream.on('close', () => client.end());
    client.on('close', () => upstream.destroy());
    client.pipe(upstream).pipe(client);
  });
}
