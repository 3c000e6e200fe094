// Runs the scripts of a web page: $PAGE is its HTML, $ORIGIN the origin it was loaded from, and $INPUTS a list of
// [form, field, text, the line of #log to wait for]. It is no browser: it has elements by id, and a WebSocket with an origin.

import { readFileSync } from 'node:fs';
import { runInThisContext } from 'node:vm';
import WebSocket from 'ws';

const { PAGE, ORIGIN, INPUTS } = process.env;
const SDK = new URL('../node_modules/centrifuge/dist/centrifuge.js', import.meta.url);
const LIMIT = 30_000;
const elements = new Map();
const printed = [];
let changed = () => {};

function element(id) {
  if (!PAGE.includes(`id="${id}"`)) throw new Error(`the page has no element ${id}`);
  if (!elements.has(id)) {
    const append = (text) => {
      printed.push(text);
      process.stdout.write(text);
      changed();
    };
    elements.set(id, { value: '', append });
  }
  return elements.get(id);
}

async function until(text) {
  const deadline = AbortSignal.timeout(LIMIT);
  while (!printed.some((line) => line.includes(text))) {
    await new Promise((resolve, reject) => {
      changed = resolve;
      deadline.onabort = () => reject(new Error(`no line ${text}`));
    });
  }
}

globalThis.document = { getElementById: element };
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    super(url, { origin: ORIGIN });
  }
};

for (const [, attributes, text] of PAGE.matchAll(/<script([^>]*)>(.*?)<\/script>/gs)) {
  const source = attributes.match(/src="([^"]*)"/)?.[1];
  if (source && !source.startsWith('https://cdn.jsdelivr.net/npm/centrifuge@')) throw new Error(`what is ${source}?`);
  runInThisContext(source ? readFileSync(SDK, 'utf8') : text);
}
for (const [form, field, text, line] of JSON.parse(INPUTS)) {
  element(field).value = text;
  element(form).onsubmit({ preventDefault() {} });
  await until(line);
}
process.exit(0);
