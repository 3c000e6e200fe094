"""The handlers of this worker. These do what docs/worker-contract.md asks of a worker that is tested: replace them by yours."""

import asyncio
import json
import os
import uuid

from tide import Reject, Worker


async def handle(request):
    """Returns the body of the answer. An exception means: try again later; Reject tells the caller."""
    try:
        task = json.loads(request.body)
        do = task["do"]
    except (ValueError, TypeError, KeyError):
        return request.body
    times = task.get("times", float("inf"))
    match do:
        case "echo":
            return as_json(task["data"])
        case "sleep":
            await asyncio.sleep(task["ms"] / 1000)
            return as_json({"slept": task["ms"]})
        case "stamp":
            return as_json(str(uuid.uuid4()))
        case "fail" if request.attempt < times:
            raise RuntimeError("asked to fail")
        case "crash" if request.attempt < times:
            os._exit(1)
        case "fail" | "crash":
            return as_json({"attempt": request.attempt})
        case "reject":
            raise Reject(task["code"], task["message"])
        case "large":
            return b"x" * task["bytes"]
        case _:
            raise Reject(400, f"unknown task {do!r}")


def as_json(value):
    return json.dumps(value).encode()


def main():
    asyncio.run(Worker(handle).run())


if __name__ == "__main__":
    main()
