// Features for a client that reconnects to another gateway each time: publications, recovery, history and answers.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { JSON_PROTOCOL, connect, subscribe, unique } from './support/client.js';
import { overEveryTransport } from './support/features.js';
import { publish, publishAll } from './support/service.js';
import { Stack } from './support/stack.js';

const stack = Stack.forThisFile();

overEveryTransport(stack, ({ roam, payload, value, values }) => {
  test('missed publications arrive after every disconnect, in order and once, and the client learns that it recovered', async (t) => {
    const [room, user] = [unique('room'), unique('user')];
    const { client, events, away } = await roam(t, user);
    const { events: heard } = await subscribe(client, `kept:${room}`);
    const nats = await stack.nats();
    for (let round = 1; round <= 3; round += 1) {
      await publish(nats, `tide.ch.kept.${room}`, `"live ${round}"`);
      await heard.get('publication', { count: 3 * round - 2 });
      await away(async () => {
        for (const name of ['missed', 'too']) await publish(nats, `tide.ch.kept.${room}`, `"${name} ${round}"`);
        await publish(nats, `tide.ch.user.${user}`, `"in person ${round}"`);
      });
      const { wasRecovering, recovered } = await heard.get('subscribed', { count: round + 1 });
      assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
      await heard.get('publication', { count: 3 * round });
      await events.get('publication', { count: round });
    }
    assert.deepEqual(values(heard), [1, 2, 3].flatMap((round) => [`live ${round}`, `missed ${round}`, `too ${round}`]));
    assert.deepEqual(values(events), [1, 2, 3].map((round) => `in person ${round}`));
    const gateways = events.all('connected').map(({ client: id }) => id.split('.')[0]);
    assert.ok(gateways.every((gateway, index) => gateway !== gateways[index + 1]), gateways.join(' '));
  });

  test('a backlog of more publications than one reply holds arrives in order and once, and so does what follows', async (t) => {
    const room = unique('room');
    const { client, away } = await roam(t, unique('user'));
    const { events: heard } = await subscribe(client, `long:${room}`);
    const nats = await stack.nats();
    const numbers = (from, to) => Array.from({ length: to - from }, (_, n) => String(from + n));
    const publishNumbers = (from, to) => publishAll(nats, `tide.ch.long.${room}`, numbers(from, to));
    await publishNumbers(0, 1);
    await heard.get('publication', { count: 1 });
    await away(() => publishNumbers(1, 1000));
    const { recovered } = await heard.get('subscribed', { count: 2 });
    assert.equal(recovered, true);
    await publishNumbers(1000, 1010);
    await heard.get('publication', { count: 1010 });
    assert.deepEqual(values(heard), Array.from({ length: 1010 }, (_, n) => n));
    assert.equal(heard.all('subscribing').length, 2, 'the subscription is not lost on the way');
  });

  test('history can be read', async (t) => {
    const { client, away } = await roam(t, unique('user'));
    const { subscription, events } = await subscribe(client, `kept:${unique('room')}`);
    for (let n = 0; n < 5; n += 1) await subscription.publish(payload(n));
    const read = async (options) => (await subscription.history(options)).publications.map(({ data }) => value(data));
    for (const round of [1, 2]) {
      assert.deepEqual(await read({ limit: 10 }), [0, 1, 2, 3, 4]);
      assert.deepEqual(await read({ limit: 2, reverse: true }), [4, 3]);
      const { offset, epoch, publications } = await subscription.history({ limit: 0 });
      assert.deepEqual(publications, []);
      assert.deepEqual(await read({ limit: 10, since: { offset: offset - 1, epoch } }), [4]);
      await away(() => {});
      await events.get('subscribed', { count: round + 1 });
    }
  });

  test('deltas decode to the published payloads, live and recovered', async (t) => {
    const room = unique('room');
    const { client, away } = await roam(t, unique('user'));
    const { events: heard } = await subscribe(client, `kept:${room}`, { delta: 'fossil' });
    const nats = await stack.nats();
    const text = (score) => ({ match: 'Sharks against Whales, quarter final, second leg', score });
    const publishAll = async (...scores) => {
      for (const score of scores) await publish(nats, `tide.ch.kept.${room}`, JSON.stringify(text(score)));
    };
    await publishAll(0, 1);
    await heard.get('publication', { count: 2 });
    await away(() => publishAll(2, 3));
    await heard.get('publication', { count: 4 });
    await publishAll(4, 5);
    await heard.get('publication', { count: 6 });
    assert.deepEqual(values(heard), [0, 1, 2, 3, 4, 5].map(text));
  });

  test('a tags filter applies live and after recovery', async (t) => {
    const room = unique('room');
    const { client, away } = await roam(t, unique('user'));
    const tagsFilter = { key: 'kind', cmp: 'eq', val: 'goal' };
    const { events: heard } = await subscribe(client, `kept:${room}`, { tagsFilter });
    const nats = await stack.nats();
    const play = async (...kinds) => {
      for (const kind of kinds) await publish(nats, `tide.ch.kept.${room}`, `"${kind}"`, { 'Tide-Tag-kind': kind.split(' ')[0] });
    };
    await play('foul 1', 'goal 2');
    await heard.get('publication');
    await away(() => play('goal 3', 'foul 4', 'goal 5'));
    await heard.get('publication', { count: 3 });
    await play('foul 6', 'goal 7');
    await heard.get('publication', { count: 4 });
    assert.deepEqual(values(heard), ['goal 2', 'goal 3', 'goal 5', 'goal 7']);
  });

  test('with cache recovery new and returning clients get the newest publication only', async (t) => {
    const room = unique('match');
    const nats = await stack.nats();
    const { client, away } = await roam(t, unique('user'));
    const other = await connect(t, JSON_PROTOCOL, await stack.gateway(1), unique('user'));
    const { events: seen } = await subscribe(other.client, `score:${room}`);
    const { events: heard } = await subscribe(client, `score:${room}`);
    await publish(nats, `tide.ch.score.${room}`, '0');
    await heard.get('publication');
    await away(async () => {
      for (const score of ['1', '2', '3']) await publish(nats, `tide.ch.score.${room}`, score);
      // A publication still in transit when the client returns would arrive after the newest one of that moment.
      await seen.get('publication', { count: 4 });
    });
    const again = await heard.get('subscribed', { count: 2 });
    assert.deepEqual([again.wasRecovering, again.recovered], [true, true]);
    await heard.get('publication', { count: 2 });
    await away(() => {});
    assert.equal((await heard.get('subscribed', { count: 3 })).recovered, true);
    await publish(nats, `tide.ch.score.${room}`, '4');
    await heard.get('publication', { count: 3 });
    assert.deepEqual(values(heard), [0, 3, 4], 'what it had was not sent again');

    const { events: late } = await subscribe((await roam(t, unique('user'))).client, `score:${room}`, {
      since: { offset: 0, epoch: '' },
    });
    await late.get('publication');
    assert.deepEqual(values(late), [4]);

    const board = unique('board');
    const { events: early } = await subscribe(other.client, `board:${board}`);
    assert.equal((await early.get('subscribed')).recovered, false);
    for (const text of ['1', '2']) await publish(nats, `tide.ch.board.${board}`, text);
    await early.get('publication', { count: 2 });
    const { events: shown } = await subscribe(client, `board:${board}`);
    await shown.get('publication');
    assert.deepEqual([shown.all('subscribed')[0].recovered, ...values(shown)], [true, 2]);
  });

  test('requests are answered, at once or later, on either gateway', async (t) => {
    const user = unique('user');
    const call = async (client, method, argument) => value((await client.rpc(method, payload(argument))).data);
    const { client, events, away } = await roam(t, user);
    for (const round of [1, 2]) {
      const numbers = Array.from({ length: 20 }, (_, number) => ({ number, text: '"ä"' }));
      assert.deepEqual(await Promise.all(numbers.map((number) => call(client, 'echo', number))), numbers);
      await assert.rejects(client.rpc('nothing', payload(1)), { code: 104 });
      const { id } = await call(client, 'later.echo', round);
      assert.equal((await events.get('publication', { count: 2 * round - 1 })).tags.re, id);
      const elsewhere = await connect(t, JSON_PROTOCOL, await stack.gateway(1), user);
      let receipt;
      await away(async () => {
        receipt = (await elsewhere.client.rpc('later.echo', 'meanwhile')).data;
        await elsewhere.events.get('publication');
      });
      const answer = await events.get('publication', { count: 2 * round });
      assert.deepEqual([answer.channel, answer.tags.re, value(answer.data)], [`#${user}`, receipt.id, 'meanwhile']);
    }
  });

  test('clients receive each other\'s publications, also with a WebSocket, before and after a disconnect', async (t) => {
    const channel = `chat:${unique('room')}`;
    const roamer = await roam(t, unique('user'));
    const other = await connect(t, JSON_PROTOCOL, await stack.gateway(2), unique('user'));
    const { subscription, events: heard } = await subscribe(roamer.client, channel);
    const { events: others } = await subscribe(other.client, channel);
    for (const count of [1, 2]) {
      await other.client.publish(channel, 'to the roamer');
      assert.equal(value((await heard.get('publication', { count: 2 * count - 1 })).data), 'to the roamer');
      await subscription.publish(payload('from the roamer'));
      await heard.get('publication', { count: 2 * count });
      const { data, info } = await others.get('publication', { count: 2 * count });
      assert.deepEqual([data, info.user], ['from the roamer', roamer.user]);
      await roamer.away(() => {});
      await heard.get('subscribed', { count: count + 1 });
    }
  });

  test('a worker publishes in the name of the sender, before and after a disconnect', async (t) => {
    const channel = `debate:${unique('debate')}`;
    const roamer = await roam(t, unique('user'));
    const other = await connect(t, JSON_PROTOCOL, await stack.gateway(2), unique('user'));
    const { subscription, events: heard } = await subscribe(roamer.client, channel);
    const { events: others } = await subscribe(other.client, channel);
    for (const count of [1, 2]) {
      await subscription.publish(payload('from the roamer'));
      const { data, info } = await others.get('publication', { count: 2 * count - 1 });
      const { client: id } = roamer.events.all('connected').at(-1);
      assert.deepEqual([data, info.user, info.client], ['from the roamer', roamer.user, id]);
      await heard.get('publication', { count: 2 * count - 1 });
      await other.client.publish(channel, 'to the roamer');
      const answer = await heard.get('publication', { count: 2 * count });
      assert.deepEqual([value(answer.data), answer.info.user], ['to the roamer', other.user]);
      await others.get('publication', { count: 2 * count });
      await roamer.away(() => {});
      await heard.get('subscribed', { count: count + 1 });
    }
  });
});
