// What stands before gateways in production: one address, behind it whichever gateway accepts a connection.

import { once } from 'node:events';
import { connect, createServer } from 'node:net';

/** Returns the one address. A new connection goes to the first of `urls` that accepts it. */
export async function balance(t, ...urls) {
  const backends = urls.map((url) => new URL(url));
  const open = new Set();
  const server = createServer((client) => {
    open.add(client);
    client.on('close', () => open.delete(client));
    client.on('error', () => {});
    forward(client, backends);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.close();
    for (const client of open) client.destroy();
  });
  const { pathname } = backends[0];
  return `ws://127.0.0.1:${server.address().port}${pathname}`;
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
