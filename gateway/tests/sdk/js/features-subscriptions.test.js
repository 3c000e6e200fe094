// Features for a client that reconnects to another gateway each time: permissions, presence, and control by services.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { JSON_PROTOCOL, connect, newSubscription, subscribe, tokenFor, unique } from './support/client.js';
import { overEveryTransport } from './support/features.js';
import { answer, publish } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

/** Sends a command of the server API to the gateways without waiting for an answer. */
async function order(method, body) {
  await publish(await stack.nats(), `tide.ctl.${method}`, JSON.stringify(body));
}

/** The channels that concurrent tests close. Each test has a back end, and all of them answer the same. */
const closed = new Set();
const mayReceive = ({ channel }) => {
  return closed.has(channel) ? { error: { code: 1403, message: 'not here' } } : { result: { data: { topic: 'x' } } };
};
const mayPublish = ({ data, user }) => {
  return data.text === 'rude' ? { error: { code: 1400, message: 'no' } } : { result: { data: { ...data, by: user } } };
};

overEveryTransport(stack, ({ roam, payload, value, values }) => {
  test('presence, joins and leaves are the same on both gateways, before and after a disconnect', async (t) => {
    const [channel, user] = [`room:${unique('presence')}`, unique('user')];
    const token = tokenFor(user, { claims: { info: { name: 'Ada' } } });
    const { client, events, away } = await roam(t, user, { token });
    const other = await connect(t, JSON_PROTOCOL, await stack.gateway(2), unique('user'));
    const of = (id) => ({ where: ({ info }) => info.client === id });
    const { events: others } = await subscribe(other.client, channel, { joinLeave: true });
    assert.deepEqual(Object.keys((await client.presence(channel)).clients), [other.id], 'who is not in it may ask');
    const { subscription, events: heard } = await subscribe(client, channel, { joinLeave: true });
    for (const round of [1, 2]) {
      const { client: id } = await events.get('connected', { count: round });
      await heard.get('subscribed', { count: round });
      await heard.get('join', of(id));
      const { info } = await others.get('join', of(id));
      assert.deepEqual([info.user, info.connInfo], [user, { name: 'Ada' }]);
      const visitor = await connect(t, JSON_PROTOCOL, await stack.gateway(1), user);
      const { events: silent } = await subscribe(visitor.client, channel);
      await heard.get('join', of(visitor.id));
      const { clients } = await subscription.presence();
      assert.deepEqual(Object.keys(clients).sort(), [id, other.id, visitor.id].sort());
      assert.deepEqual([clients[id].user, value(clients[id].connInfo)], [user, { name: 'Ada' }]);
      assert.deepEqual(await subscription.presenceStats(), { numClients: 3, numUsers: 2 });
      visitor.client.disconnect();
      await heard.get('leave', of(visitor.id));
      assert.equal(silent.all('join').length, 0, 'nobody is told who did not ask');
      assert.deepEqual(await subscription.presenceStats(), { numClients: 2, numUsers: 2 });
      await away(() => others.get('leave', of(id)));
    }
  });

  test('a private channel stays subscribed with fresh tokens, and is recovered with one', async (t) => {
    const [room, user] = [`$${unique('room')}`, unique('user')];
    const { client, events, away } = await roam(t, user);
    const asked = [];
    const getToken = async ({ channel }) => {
      asked.push(channel);
      return tokenFor(user, { claims: { channel }, seconds: asked.length === 1 ? 3 : 3600 });
    };
    assert.equal(await refused(client, `kept:${room}`), 103);
    const { subscription, events: heard } = await subscribe(client, `kept:${room}`, { getToken });
    await subscription.publish(payload('at first'));
    // A witness with an equally short token that is not renewed: when it loses the channel, the first token has expired.
    const witness = await connect(t, JSON_PROTOCOL, await stack.gateway(1), user);
    const short = tokenFor(user, { claims: { channel: `kept:${room}` }, seconds: 3 });
    const { events: lost } = await subscribe(witness.client, `kept:${room}`, {
      token: short,
      getToken: () => new Promise(() => {}),
    });
    await lost.get('subscribing', { count: 2 });
    await publish(await stack.nats(), `tide.ch.kept.${room.replace('$', '=24')}`, '"renewed"');
    await heard.get('publication', { count: 2 });
    assert.deepEqual([asked.length, heard.all('subscribing').length], [2, 1], 'renewed, not subscribed again');
    assert.equal((await witness.client.publish(`kept:${room}`, 'no subscriber any more').catch((error) => error)).code, 103);
    await away(async () => {
      await publish(await stack.nats(), `tide.ch.kept.${room.replace('$', '=24')}`, '"missed"');
    });
    await heard.get('publication', { count: 3 });
    assert.deepEqual(values(heard), ['at first', 'renewed', 'missed']);
    assert.equal(events.all('disconnected').length, 0);
  });

  test('a channel that lists users is open to them only, and recovers', async (t) => {
    const { client, user, away } = await roam(t, unique('ada'));
    const ben = await connect(t, JSON_PROTOCOL, await stack.gateway(2), unique('ben'));
    const channel = `dialogs:room#${user},${ben.user}`;
    const { subscription, events: heard } = await subscribe(client, channel);
    const { events: others } = await subscribe(ben.client, channel);
    await subscription.publish(payload('from ada'));
    await away(() => ben.client.publish(channel, 'from ben'));
    await heard.get('publication', { count: 2 });
    await others.get('publication', { count: 2 });
    assert.deepEqual([values(heard), others.all('publication').map(({ data }) => data)], Array(2).fill(['from ada', 'from ben']));

    const eve = await roam(t, unique('eve'));
    assert.equal(await refused(eve.client, channel), 103);
    await assert.rejects(eve.client.publish(channel, payload(1)), { code: 103 });
    await assert.rejects(eve.client.history(channel, { limit: 1 }), { code: 103 });
  });

  test('a back end decides about subscriptions and publications, and is asked again after a disconnect', async (t) => {
    const nats = await stack.nats();
    await answer(t, nats, 'tide.hook.subscribe', mayReceive);
    await answer(t, nats, 'tide.hook.publish', mayPublish);
    const [open, shut] = [`asked:${unique('open')}`, `asked:${unique('shut')}`];
    closed.add(shut);
    const { client, user, away } = await roam(t, unique('user'));
    const { subscription, events: heard } = await subscribe(client, open);
    assert.equal(await refused(client, shut), 1403);
    for (const round of [1, 2]) {
      assert.deepEqual(value((await heard.get('subscribed', { count: round })).data), { topic: 'x' });
      await assert.rejects(subscription.publish(payload({ text: 'rude' })), { code: 1400, message: 'no' });
      await subscription.publish(payload({ text: 'hi' }));
      assert.deepEqual(value((await heard.get('publication', { count: round })).data), { text: 'hi', by: user });
      if (round === 2) closed.add(open);
      await away(() => {});
    }
    assert.equal((await heard.get('unsubscribed')).code, 1403);
    assert.equal(client.state, 'connected');
  });

  test('the channels of a token are subscribed on connect and recovered', async (t) => {
    const [room, user] = [unique('room'), unique('user')];
    const token = tokenFor(user, { claims: { subs: { [`kept:${room}`]: { data: { role: 'reader' } } } } });
    const { events, away } = await roam(t, user, { token });
    const own = { where: ({ channel }) => channel === `kept:${room}` };
    const { recoverable, data } = await events.get('subscribed', own);
    assert.deepEqual([recoverable, value(data)], [true, { role: 'reader' }]);
    const nats = await stack.nats();
    for (const round of [1, 2]) {
      await publish(nats, `tide.ch.kept.${room}`, `"live ${round}"`);
      await events.get('publication', { count: 2 * round - 1 });
      await away(() => publish(nats, `tide.ch.kept.${room}`, `"missed ${round}"`));
      assert.equal((await events.get('subscribed', { ...own, count: round + 1 })).recovered, true);
      await events.get('publication', { count: 2 * round });
    }
    assert.deepEqual(values(events), ['live 1', 'missed 1', 'live 2', 'missed 2']);
  });

  test('a service subscribes and unsubscribes a client, on either gateway', async (t) => {
    const { client, events, user, away } = await roam(t, unique('user'));
    const room = unique('room');
    const own = { where: ({ channel }) => channel === `secret:${room}` };
    const nats = await stack.nats();
    for (const round of [1, 2]) {
      await order('subscribe', { user, channel: `secret:${room}`, data: { role: 'guest' } });
      const { data } = await events.get('subscribed', { ...own, count: 2 * round - 1 });
      assert.deepEqual(value(data), { role: 'guest' });
      await publish(nats, `tide.ch.secret.${room}`, '1');
      assert.equal(value((await events.get('publication', { count: round })).data), 1);
      await order('unsubscribe', { user, channel: `secret:${room}` });
      await events.get('unsubscribed', { ...own, count: 2 * round - 1 });
      // Such a subscription lasts as long as the connection.
      await order('subscribe', { user, channel: `secret:${room}` });
      await events.get('subscribed', { ...own, count: 2 * round });
      await away(() => {});
      await events.get('unsubscribed', { ...own, count: 2 * round });
    }
    assert.equal(client.state, 'connected');
  });

  test('a service ends a subscription for good, or requires a fresh token, on either gateway', async (t) => {
    const { client, user, away } = await roam(t, unique('user'));
    const [open, shut] = [`chat:${unique('room')}`, `chat:$${unique('room')}`];
    const { subscription, events: left } = await subscribe(client, open);
    let fetched = 0;
    const getToken = async () => {
      fetched += 1;
      return tokenFor(user, { claims: { channel: shut } });
    };
    const { events: kept } = await subscribe(client, shut, { getToken });
    for (const round of [1, 2]) {
      await order('unsubscribe', { user, channel: open });
      assert.equal((await left.get('unsubscribed', { count: round })).code, 2000);
      assert.equal(subscription.state, 'unsubscribed');
      await order('unsubscribe', { user, channel: shut, code: 2502 });
      await kept.get('subscribed', { count: 2 * round });
      assert.equal(fetched, round + 1);
      await away(() => subscription.subscribe());
      await kept.get('subscribed', { count: 2 * round + 1 });
      await left.get('subscribed', { count: round + 1 });
    }
  });

  test('a service makes a client reconnect, reconnect with a fresh token, or stay away, on either gateway', async (t) => {
    const user = unique('user');
    let fetched = 0;
    const getToken = async () => {
      fetched += 1;
      return tokenFor(user, { claims: { info: { version: fetched } } });
    };
    const { client, events, away } = await roam(t, user, { token: '', getToken });
    const other = await connect(t, JSON_PROTOCOL, await stack.gateway(1), unique('user'));
    const room = unique('room');
    const { subscription, events: heard } = await subscribe(client, `kept:${room}`);
    let [connects, told] = [1, 0];
    const back = async (code) => {
      connects += 1;
      assert.equal((await events.get('connecting', { count: connects })).code, code);
      // 3014 invalidates all state: the SDK subscribes without a position.
      assert.equal((await heard.get('subscribed', { count: connects })).recovered, code !== 3014);
      await subscription.publish(payload(connects));
      told += 1;
      return value((await heard.get('publication', { count: told })).info.connInfo);
    };
    for (const _ of [1, 2]) {
      const had = fetched;
      await order('disconnect', { user, disconnect: { code: 4100, reason: 'come again' } });
      assert.deepEqual(await back(4100), { version: had });
      await order('refresh', { user });
      const { version } = await back(3014);
      assert.ok(version > had, 'what it had is thrown away, though it was still good');
      await away(() => {});
      assert.deepEqual(await back(1), { version: fetched });
    }
    const elsewhere = await connect(t, JSON_PROTOCOL, await stack.gateway(2), user);
    await order('disconnect', { user });
    for (const ended of [events, elsewhere.events]) {
      const { code, reason } = await ended.get('disconnected');
      assert.deepEqual([code, reason], [3503, 'force disconnect']);
    }
    assert.equal(other.client.state, 'connected');
  });
});

/** Subscribes to a channel and returns the error code. */
async function refused(client, channel) {
  const { subscription, events } = newSubscription(client, channel);
  subscription.subscribe();
  const { code } = await events.get('unsubscribed');
  client.removeSubscription(subscription);
  return code;
}
