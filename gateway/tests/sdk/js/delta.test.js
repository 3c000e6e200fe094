// The deltas of `shared/tests/fossil`, applied by the decoder in the SDK.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import WebSocket from 'ws';

import { JSON_PROTOCOL, PROTOBUF } from './support/client.js';

const VECTORS = JSON.parse(readFileSync(new URL('../../../../shared/tests/fossil/vectors.json', import.meta.url)));

/** Decodes a delta with a client that is never connected. */
function decode({ Centrifuge }, old, delta) {
  const client = new Centrifuge('ws://never.invalid', { websocket: WebSocket });
  return client._codec.applyDeltaIfNeeded({ delta: true, data: delta }, old).newData;
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

for (const { about, base64, ...vector } of VECTORS) {
  const bytes = (field) => new Uint8Array(Buffer.from(vector[field], base64 ? 'base64' : 'utf8'));

  test(`protobuf: ${about}`, () => {
    assert.deepEqual(decode(PROTOBUF, bytes('old'), bytes('delta')), bytes('new'));
  });

  if (!base64 && isJson(vector.new)) {
    test(`JSON: ${about}`, () => {
      assert.deepEqual(decode(JSON_PROTOCOL, bytes('old'), vector.delta), JSON.parse(vector.new));
    });
  }
}
