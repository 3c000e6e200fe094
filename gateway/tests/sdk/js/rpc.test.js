// Requests: answered at once, answered later, refused.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { JSON_PROTOCOL, PROTOBUF, PROTOCOLS, connect, recordingSocket, unique } from './support/client.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();
const VALUE = { text: 'Ebbe & Flut: 潮', numbers: [1, 2.5, -3], nested: { empty: {}, nothing: null } };

for (const protocol of PROTOCOLS) {
  const call = async (client, method, value) => protocol.value((await client.rpc(method, protocol.payload(value))).data);
  const refused = (client, method, expected) =>
    assert.rejects(client.rpc(method, protocol.payload(VALUE)), (error) => {
      assert.equal(error.code, expected.code, `code of ${JSON.stringify(error)}`);
      assert.ok(error.message.startsWith(expected.message), error.message);
      assert.equal(error.temporary ?? false, expected.temporary ?? false);
      return true;
    });

  test(`${protocol.protocol}: a call is answered by a worker`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    assert.deepEqual(await call(client, 'echo', VALUE), VALUE);
  });

  test(`${protocol.protocol}: every one of many calls at once gets its own answer`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const numbers = Array.from({ length: 200 }, (_, number) => number);
    assert.deepEqual(await Promise.all(numbers.map((number) => call(client, 'echo', number))), numbers);
  });

  test(`${protocol.protocol}: commands batched by the client travel in one frame and are all answered`, async (t) => {
    const { frames, RecordingSocket } = recordingSocket();
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'), { websocket: RecordingSocket });
    const before = frames.length;
    client.startBatching();
    const calls = Array.from({ length: 20 }, (_, number) => call(client, 'echo', number));
    client.stopBatching();
    assert.deepEqual(await Promise.all(calls), Array.from({ length: 20 }, (_, number) => number));
    assert.equal(frames.length - before, 1);
  });

  test(`${protocol.protocol}: a "later" call gets a receipt, then its answer on the personal channel`, async (t) => {
    const { client, events, user } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const receipt = await call(client, 'later.echo', VALUE);
    assert.equal(receipt.duplicate, false);
    assert.ok(receipt.seq > 0);
    const answer = await events.get('publication');
    assert.equal(answer.channel, `#${user}`);
    assert.deepEqual(protocol.value(answer.data), VALUE);
    assert.deepEqual(answer.tags, { re: receipt.id, status: 'ok' });
  });

  test(`${protocol.protocol}: the answer to a "later" call reaches every connection of its user and no other`, async (t) => {
    const user = unique('user');
    const asking = await connect(t, protocol, await stack.gateway(1), user);
    const elsewhere = await connect(t, protocol, await stack.gateway(2), user);
    const stranger = await connect(t, protocol, await stack.gateway(2), unique('user'));
    const { id } = await call(asking.client, 'later.echo', VALUE);
    for (const { events } of [asking, elsewhere]) {
      assert.equal((await events.get('publication')).tags.re, id);
    }
    // A later message has arrived, so this one was not sent.
    const own = await call(stranger.client, 'later.echo', VALUE);
    assert.equal((await stranger.events.get('publication')).tags.re, own.id);
    assert.equal(stranger.events.all('publication').length, 1);
  });

  test(`${protocol.protocol}: a method without a route is refused with 104`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    await refused(client, 'nobody.home', { code: 104, message: 'method not found' });
    assert.deepEqual(await call(client, 'echo', 'the connection lives on'), 'the connection lives on');
  });

  test(`${protocol.protocol}: an invalid method name is refused with 107`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    for (const method of ['', 'echo.', 'a..b', 'echo#', `echo#${'k'.repeat(300)}`, 'm'.repeat(300), 'ec\u0007ho']) {
      await refused(client, method, { code: 107, message: 'bad request: ' });
    }
  });

  test(`${protocol.protocol}: a call no worker takes ends with 1001 before the SDK gives up`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    await Promise.all([
      refused(client, 'greet', { code: 1001, message: 'accepted, still working: ' }),
      refused(client, 'greet#once', { code: 1001, message: 'accepted, still working: ', temporary: true }),
    ]);
  });

  test(`${protocol.protocol}: a call with a key runs once and every retry gets its answer, on any gateway`, async (t) => {
    const user = unique('user');
    const first = await connect(t, protocol, await stack.gateway(1), user);
    const second = await connect(t, protocol, await stack.gateway(2), user);
    const key = unique('key');
    const answered = await stack.answered('echo');
    const answers = [
      await call(first.client, `echo#${key}`, VALUE),
      await call(first.client, `echo#${key}`, VALUE),
      await call(second.client, `echo#${key}`, VALUE),
    ];
    assert.deepEqual(answers, [VALUE, VALUE, VALUE]);
    assert.equal((await stack.untilAnswered('echo', answered + 1)) - answered, 1);
  });

  test(`${protocol.protocol}: retries of a call with a key that run at once share one answer`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const key = unique('key');
    const answered = await stack.answered('echo');
    const answers = await Promise.all(Array.from({ length: 8 }, () => call(client, `echo#${key}`, VALUE)));
    assert.deepEqual(answers, Array(8).fill(VALUE));
    assert.equal((await stack.untilAnswered('echo', answered + 1)) - answered, 1);
  });

  test(`${protocol.protocol}: a key used with another body is refused with 1003`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const key = unique('key');
    await call(client, `echo#${key}`, VALUE);
    await assert.rejects(call(client, `echo#${key}`, 'something else'), { code: 1003 });
    assert.deepEqual(await call(client, `echo#${key}`, VALUE), VALUE);
  });

  test(`${protocol.protocol}: a key belongs to its user`, async (t) => {
    const one = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const other = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const key = unique('key');
    assert.equal(await call(one.client, `echo#${key}`, 'mine'), 'mine');
    assert.equal(await call(other.client, `echo#${key}`, 'yours'), 'yours');
  });

  test(`${protocol.protocol}: a "later" call with a key is accepted once`, async (t) => {
    const { client, events } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const key = unique('key');
    const receipt = await call(client, `later.echo#${key}`, VALUE);
    assert.equal(receipt.duplicate, false);
    assert.equal((await events.get('publication')).tags.re, receipt.id);
    const again = await call(client, `later.echo#${key}`, VALUE);
    assert.equal(again.duplicate, true);
    assert.equal(again.id, receipt.id);
    await assert.rejects(call(client, `later.echo#${key}`, 'something else'), { code: 1003 });
  });

  test(`${protocol.protocol}: a repeated "later" call returns an answer that the client has missed`, async (t) => {
    const user = unique('user');
    const key = unique('key');
    const before = await connect(t, protocol, await stack.gateway(1), user);
    const receipt = await call(before.client, `later.echo#${key}`, VALUE);
    await before.events.get('publication');
    before.client.disconnect();

    const { client, events } = await connect(t, protocol, await stack.gateway(2), user);
    assert.equal((await call(client, `later.echo#${key}`, VALUE)).id, receipt.id);
    const answer = await events.get('publication');
    assert.equal(answer.channel, `#${user}`);
    assert.deepEqual(protocol.value(answer.data), VALUE);
    assert.deepEqual(answer.tags, { re: receipt.id, status: 'ok' });
  });

  test(`${protocol.protocol}: a message within the limit is answered, a longer one ends the connection for good`, async (t) => {
    const { client, events } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const long = 'x'.repeat(60 * 1024);
    assert.equal(await call(client, 'echo', long), long);
    await assert.rejects(call(client, 'echo', long + long));
    assert.equal((await events.get('disconnected')).reason, 'message size limit exceeded');
  });

  test(`${protocol.protocol}: a message sent without waiting is handled`, async (t) => {
    const { client } = await connect(t, protocol, await stack.gateway(1), unique('user'));
    const answered = await stack.answered('send');
    await client.send(protocol.payload(VALUE));
    await client.send(protocol.payload(VALUE));
    await stack.untilAnswered('send', answered + 2);
    assert.equal(client.state, 'connected');
  });
}

test('protobuf: any bytes are returned unchanged', async (t) => {
  const { client } = await connect(t, PROTOBUF, await stack.gateway(1), unique('user'));
  const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
  const { data } = await client.rpc('echo', bytes);
  assert.deepEqual(Uint8Array.from(data), bytes);
});

test('JSON: a payload of line breaks and escapes is returned unchanged', async (t) => {
  const { client } = await connect(t, JSON_PROTOCOL, await stack.gateway(1), unique('user'));
  const value = { text: 'one\ntwo\r\n\t"three" \\ \u2028 \u0000 😀' };
  assert.deepEqual((await client.rpc('echo', value)).data, value);
});

test('JSON: a call without data is answered', async (t) => {
  const { client } = await connect(t, JSON_PROTOCOL, await stack.gateway(1), unique('user'));
  assert.equal((await client.rpc('echo', null)).data, null);
});
