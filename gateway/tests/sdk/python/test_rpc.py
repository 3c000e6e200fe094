"""Requests: answered at once, answered later, refused."""

import asyncio

import pytest
from centrifuge import CentrifugeError
from centrifuge.exceptions import ReplyError
from support.client import unique

VALUE = {"text": "Ebbe & Flut: 潮\n", "numbers": [1, 2.5, -3], "nested": {"empty": {}, "nothing": None}}


async def test_a_call_is_answered_by_a_worker(stack, clients):
    connection = await clients.connect(stack.gateway(1))
    assert await connection.call("echo", VALUE) == VALUE


async def test_every_one_of_many_calls_at_once_gets_its_own_answer(stack, clients):
    connection = await clients.connect(stack.gateway(2))
    answers = await asyncio.gather(*(connection.call("echo", number) for number in range(100)))
    assert answers == list(range(100))


async def test_a_later_call_gets_a_receipt_then_its_answer_on_the_personal_channel(stack, clients):
    connection = await clients.connect(stack.gateway(1))
    receipt = await connection.call("later.echo", VALUE)
    assert receipt["duplicate"] is False
    assert receipt["seq"] > 0
    answer = await connection.events.get("publication")
    assert answer.channel == f"#{connection.user}"
    assert connection.protocol.value(answer.pub.data) == VALUE
    assert answer.pub.tags == {"re": receipt["id"], "status": "ok"}


@pytest.mark.parametrize(
    ("method", "code"), [("nobody.home", 104), ("", 107), ("a..b", 107), ("echo#", 107), ("greet", 1001)]
)
async def test_a_call_that_cannot_be_answered_says_why(stack, clients, method, code):
    connection = await clients.connect(stack.gateway(1))
    with pytest.raises(ReplyError) as refused:
        await connection.call(method, VALUE)
    assert refused.value.code == code
    assert not refused.value.temporary
    assert await connection.call("echo", "the connection lives on") == "the connection lives on"


async def test_requests_with_one_key_run_once(stack, clients):
    connection = await clients.connect(stack.gateway(1))
    elsewhere = await clients.connect(stack.gateway(2), connection.user)
    key = unique("key")
    assert await connection.call(f"echo#{key}", VALUE) == VALUE
    assert await elsewhere.call(f"echo#{key}", VALUE) == VALUE
    with pytest.raises(ReplyError) as refused:
        await connection.call(f"echo#{key}", "something else")
    assert refused.value.code == 1003


async def test_a_refusal_is_an_error_of_the_sdk(stack, clients):
    connection = await clients.connect(stack.gateway(1))
    with pytest.raises(CentrifugeError):
        await connection.call("nobody.home", VALUE)
