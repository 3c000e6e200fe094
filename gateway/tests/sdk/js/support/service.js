// A service that uses NATS directly, with the part of the NATS protocol that it needs.

import { once } from 'node:events';
import { connect } from 'node:net';

/** Publishes as the user `service` and returns when the broker has received the message. */
export const publish = (nats, subject, payload, headers = {}) => publishAll(nats, subject, [payload], headers);

/** Publishes several messages, in order. */
export async function publishAll(nats, subject, payloads, headers = {}) {
  const socket = connect(Number(nats.port), nats.hostname);
  try {
    const lines = linesOf(socket);
    const info = JSON.parse((await lines.next()).value.slice('INFO '.length));
    const hello = { user: 'service', pass: 'dev-service', verbose: false, pedantic: false, headers: info.headers };
    socket.write(`CONNECT ${JSON.stringify(hello)}\r\n`);
    const names = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    const head = Buffer.from(`NATS/1.0\r\n${names.join('')}\r\n`);
    for (const body of payloads.map((payload) => Buffer.from(payload))) {
      socket.write(`HPUB ${subject} ${head.length} ${head.length + body.length}\r\n`);
      socket.write(Buffer.concat([head, body, Buffer.from('\r\n')]));
    }
    socket.write('PING\r\n');
    const { value: answer } = await lines.next();
    if (answer !== 'PONG') throw new Error(`the broker says ${answer}`);
  } finally {
    socket.destroy();
  }
}

async function* linesOf(socket) {
  await once(socket, 'connect');
  let rest = '';
  for await (const chunk of socket) {
    const lines = (rest + chunk).split('\r\n');
    rest = lines.pop();
    yield* lines;
  }
}

/** Answers requests as the user `service` until the test ends. Returns the recorded requests. */
export async function answer(t, nats, subject, decide) {
  const socket = connect(Number(nats.port), nats.hostname);
  t.after(() => socket.destroy());
  const lines = linesOf(socket);
  await lines.next();
  const hello = { user: 'service', pass: 'dev-service', verbose: false, pedantic: false };
  socket.write(`CONNECT ${JSON.stringify(hello)}\r\nSUB ${subject} 1\r\nPING\r\n`);
  const { value: ready } = await lines.next();
  if (ready !== 'PONG') throw new Error(`the broker says ${ready}`);
  const asked = [];
  (async () => {
    for await (const line of lines) {
      if (line === 'PING') socket.write('PONG\r\n');
      if (!line.startsWith('MSG ')) continue;
      const reply = line.split(' ')[3];
      const question = JSON.parse((await lines.next()).value);
      asked.push(question);
      const body = Buffer.from(JSON.stringify(decide(question)));
      socket.write(`PUB ${reply} ${body.length}\r\n${body}\r\n`);
    }
  })().catch(() => {});
  return asked;
}
