// The handlers of this worker. These do what docs/worker-contract.md asks of a worker that is tested: replace them by yours.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Reject, Worker } from "./tide.js";

const asJson = (value) => Buffer.from(JSON.stringify(value));

/** Returns the body of the answer. An exception means: try again later; Reject tells the caller. */
async function handle(request) {
  let task;
  try {
    task = JSON.parse(Buffer.from(request.body).toString());
  } catch {
    return request.body;
  }
  const times = task?.times ?? Infinity;
  switch (task?.do) {
    case undefined:
      return request.body;
    case "echo":
      return asJson(task.data);
    case "sleep":
      await sleep(task.ms, undefined, { signal: request.cancelled });
      return asJson({ slept: task.ms });
    case "stamp":
      return asJson(randomUUID());
    case "fail":
      if (request.attempt < times) throw new Error("asked to fail");
      return asJson({ attempt: request.attempt });
    case "crash":
      if (request.attempt < times) process.exit(1);
      return asJson({ attempt: request.attempt });
    case "reject":
      throw new Reject(task.code, task.message);
    case "large":
      return Buffer.alloc(task.bytes, "x");
    default:
      throw new Reject(400, `unknown task ${task.do}`);
  }
}

await new Worker(handle).run();
