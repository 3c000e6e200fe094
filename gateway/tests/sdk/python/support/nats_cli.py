"""What the documents type of the `nats` command: pub, request (req), reply and `stream ls`. This machine may lack it."""

import argparse
import asyncio
import os

import nats

parser = argparse.ArgumentParser()
parser.add_argument("--server", default=os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
parser.add_argument("--user")
parser.add_argument("--password")
parser.add_argument("--inbox-prefix", default="_INBOX")
parser.add_argument("-H", dest="headers", action="append", default=[])
parser.add_argument("command", choices=["pub", "req", "request", "reply", "stream"])
parser.add_argument("subject")
parser.add_argument("payload", nargs="?", default="")


async def main(typed):
    login = {"user": typed.user, "password": typed.password} if typed.user else {}
    prefix = typed.inbox_prefix.encode()
    connection = await nats.connect(typed.server, inbox_prefix=prefix, max_reconnect_attempts=0, **login)
    headers = dict(header.split(":", 1) for header in typed.headers) or None
    payload = typed.payload.encode()
    if typed.command == "pub":
        await connection.publish(typed.subject, payload, headers=headers)
    elif typed.command == "reply":
        asked = await connection.subscribe(typed.subject, queue="NATS-RPLY-22")
        await connection.flush()
        print("Listening", flush=True)
        async for question in asked.messages:
            await question.respond(payload)
    elif (typed.command, typed.subject) == ("stream", "ls"):
        for stream in await connection.jsm().streams_info():
            print(stream.config.name, stream.state.messages)
    else:
        print((await connection.request(typed.subject, payload, timeout=5, headers=headers)).data.decode())
    await connection.drain()


asyncio.run(main(parser.parse_args()))
