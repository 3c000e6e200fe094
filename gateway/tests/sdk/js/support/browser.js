// Opens $URL in Chromium ($BROWSER), fills the fields of its forms and submits them: $INPUTS is a list of
// [form, field, text, the line of #log to wait for]. The SDK is served from node_modules in the place of the CDN.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import WebSocket from 'ws';

const { BROWSER, URL: PAGE, INPUTS } = process.env;
const SDK = new URL('../node_modules/centrifuge/dist/centrifuge.js', import.meta.url);
const LIMIT = AbortSignal.timeout(60_000);
LIMIT.onabort = () => fail(new Error('not in a minute'));

const profile = mkdtempSync(join(tmpdir(), 'tidegate-browser-'));
const browser = spawn(BROWSER, [
  '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
  '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank',
], { stdio: ['ignore', 'ignore', 'pipe'] });
browser.on('error', fail);
// It writes its profile until it has ended.
const end = (code) => {
  browser.removeAllListeners('exit');
  browser.once('exit', () => {
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
    process.exit(code);
  });
  browser.kill('SIGKILL');
};

function fail(error) {
  console.error(error);
  end(1);
}

// The address of the debugging protocol, which the browser prints.
const address = await new Promise((resolve, reject) => {
  let said = '';
  browser.stderr.on('data', (part) => {
    said += part;
    const found = said.match(/DevTools listening on (ws:\S+)/)?.[1];
    if (found) resolve(found);
  });
  browser.once('exit', () => reject(new Error(said)));
});
const socket = new WebSocket(address);
await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));

const waiting = new Map();
let number = 0;
let session;
function ask(method, params = {}) {
  number += 1;
  socket.send(JSON.stringify({ id: number, method, params, sessionId: session }));
  return new Promise((resolve, reject) => waiting.set(number, { resolve, reject }));
}
socket.on('message', (text) => {
  const { id, result, error, method, params } = JSON.parse(text);
  if (id) {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error.message));
    else resolve(result);
  } else if (method === 'Fetch.requestPaused') {
    const headers = [{ name: 'content-type', value: 'text/javascript' }];
    const body = readFileSync(SDK).toString('base64');
    ask('Fetch.fulfillRequest', { requestId: params.requestId, responseCode: 200, responseHeaders: headers, body });
  } else if (method === 'Runtime.exceptionThrown') {
    fail(new Error(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text));
  }
});

async function evaluate(expression) {
  const { result, exceptionDetails } = await ask('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

// A promise in the page that is kept when #log has the line.
const line = (text) => `new Promise((resolve) => {
  const log = document.getElementById('log');
  const look = () => log.textContent.includes(${JSON.stringify(text)}) && resolve(log.textContent);
  new MutationObserver(look).observe(log, { childList: true, characterData: true, subtree: true });
  look();
})`;

try {
  const { targetId } = await ask('Target.createTarget', { url: 'about:blank' });
  ({ sessionId: session } = await ask('Target.attachToTarget', { targetId, flatten: true }));
  await ask('Runtime.enable');
  await ask('Page.enable');
  await ask('Fetch.enable', { patterns: [{ urlPattern: 'https://cdn.jsdelivr.net/npm/centrifuge@*' }] });
  await ask('Page.navigate', { url: PAGE });
  await evaluate(`new Promise((resolve) => {
    const look = () => document.readyState === 'complete' && globalThis.Centrifuge ? resolve() : setTimeout(look, 20);
    look();
  })`);
  for (const [form, field, text, wanted] of JSON.parse(INPUTS)) {
    await evaluate(`document.getElementById(${JSON.stringify(field)}).value = ${JSON.stringify(text)};
      document.getElementById(${JSON.stringify(form)}).requestSubmit()`);
    console.log(await evaluate(line(wanted)));
  }
  end(0);
} catch (error) {
  fail(error);
}
