// The transports of the SDK.

import { EventSource } from 'eventsource';

import { balance, takeTurns } from './balancer.js';
import { JSON_PROTOCOL, PROTOBUF, connect } from './client.js';

/** The transports, each with its encodings. */
export const TRANSPORTS = [
  { name: 'WebSocket, JSON', transport: 'websocket', protocol: JSON_PROTOCOL },
  { name: 'WebSocket, protobuf', transport: 'websocket', protocol: PROTOBUF },
  { name: 'HTTP stream, JSON', transport: 'http_stream', protocol: JSON_PROTOCOL },
  { name: 'HTTP stream, protobuf', transport: 'http_stream', protocol: PROTOBUF },
  { name: 'server-sent events', transport: 'sse', protocol: JSON_PROTOCOL },
];

/** The transports other than the WebSocket: clients post their commands. */
export const STREAMS = TRANSPORTS.filter(({ transport }) => transport !== 'websocket');

/** A path of the gateway whose WebSocket has this address. */
export function path(websocket, pathname) {
  return new URL(pathname, websocket.replace(/^ws/, 'http')).href;
}

/** The SDK's endpoints and options for one transport. */
export function reaching(transport, streams, posts = streams) {
  if (transport === 'websocket') return { endpoints: streams, options: {} };
  return {
    endpoints: [{ transport, endpoint: path(streams, `/connection/${transport}`) }],
    options: { fetch, readableStream: ReadableStream, eventsource: EventSource, emulationEndpoint: path(posts, '/emulation') },
  };
}

/** Connects to the first available gateway, and posts to the last one. */
export async function failingOver(t, stack, transport) {
  const gateways = [await stack.gateway(1), await stack.gateway(2)];
  const streams = await balance(t, ...gateways);
  return reaching(transport, streams, await balance(t, ...gateways.toReversed()));
}

/** A client that reaches another gateway with every connect, and posts to the one it is not connected to. */
export async function roaming(t, stack, { transport, protocol }, user, options = {}) {
  const { streams, posts, away } = await takeTurns(t, await stack.gateway(1), await stack.gateway(2));
  const { endpoints, options: needed } = reaching(transport, streams, posts);
  return { ...(await connect(t, protocol, endpoints, user, { ...needed, ...options })), away };
}
