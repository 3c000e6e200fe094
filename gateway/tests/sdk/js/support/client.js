// Clients of the published SDK, for both of its protocols.

import { createHmac, randomBytes } from 'node:crypto';

import { Centrifuge as JsonCentrifuge } from 'centrifuge';
import { Centrifuge as ProtobufCentrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

import { Events } from './events.js';

const SECRET = 'dev-secret-that-everybody-knows-0123456789';
const HOUR = 3600;

/** The two protocols: the SDK's class, and how a JSON value becomes a payload and is read back. */
export const PROTOCOLS = [
  { protocol: 'JSON', Centrifuge: JsonCentrifuge, payload: (value) => value, value: (payload) => payload },
  {
    protocol: 'protobuf',
    Centrifuge: ProtobufCentrifuge,
    payload: (value) => new TextEncoder().encode(JSON.stringify(value)),
    value: (payload) => JSON.parse(new TextDecoder().decode(payload)),
  },
];
export const [JSON_PROTOCOL, PROTOBUF] = PROTOCOLS;

/** A unique name. */
export function unique(prefix) {
  return `${prefix}-${randomBytes(6).toString('hex')}`;
}

/** A connection token that expires after so many seconds; with the claim `channel` a subscription token. */
export function tokenFor(user, { seconds = HOUR, secret = SECRET, claims = {} } = {}) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ sub: user, iat: now, exp: now + seconds, ...claims })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

/** A client that is not connected yet; it is disconnected when the test ends. `events` records its events. */
export function newClient(t, { Centrifuge }, url, options = {}) {
  const client = new Centrifuge(url, { websocket: WebSocket, minReconnectDelay: 50, ...options });
  const events = Events.of(
    client,
    'connecting', 'connected', 'disconnected', 'error', 'message', 'publication', 'subscribed', 'unsubscribed',
  );
  t.after(() => client.disconnect());
  return { client, events };
}

/** A connected client of a user. */
export async function connect(t, protocol, url, user, options = {}) {
  const { client, events } = newClient(t, protocol, url, { token: tokenFor(user), ...options });
  client.connect();
  const { client: id } = await events.get('connected');
  return { client, events, id, user };
}

/** An active subscription. */
export async function subscribe(client, channel, options = {}) {
  const { subscription, events } = newSubscription(client, channel, options);
  subscription.subscribe();
  await events.get('subscribed');
  return { subscription, events };
}

/** A subscription that is not active yet. */
export function newSubscription(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, { minResubscribeDelay: 50, ...options });
  const names = ['subscribing', 'subscribed', 'unsubscribed', 'publication', 'join', 'leave', 'error'];
  return { subscription, events: Events.of(subscription, ...names) };
}

/** A WebSocket class that records the messages it sends. */
export function recordingSocket() {
  const frames = [];
  class RecordingSocket extends WebSocket {
    send(data, ...rest) {
      frames.push(data);
      super.send(data, ...rest);
    }
  }
  return { frames, RecordingSocket };
}
