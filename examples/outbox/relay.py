"""Gives the rows of a PostgreSQL outbox to the workers. Any number of relays may run; each row is with one of them.

Needs psycopg 3. DATABASE_URL, TIDEGATE_API and TIDEGATE_API_KEY say where to.
"""

import json
import os
import time
import urllib.error
import urllib.request

import psycopg

API = os.environ.get("TIDEGATE_API", "http://127.0.0.1:9000/api")
KEY = os.environ.get("TIDEGATE_API_KEY", "dev-api-key")
AT_A_TIME = 100
LOOK_AGAIN = 10  # seconds, should a notification be lost
PAUSE = 1  # seconds, while the gateways refuse requests or are away

TAKE = """
    SELECT id, method, data, user_id FROM outbox
    WHERE error IS NULL ORDER BY place LIMIT %s FOR UPDATE SKIP LOCKED
"""


class NotNow(Exception):
    """The request may be accepted a moment later."""


def enqueue(row_id, method, data, user):
    """Returns None once the request is stored, or why it never will be. A repetition with the same key stores nothing."""
    params = {"method": method, "data": data, "key": str(row_id), "user": user}
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{API}/enqueue", json.dumps(params).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            error = json.load(response).get("error")
    except (OSError, ValueError) as problem:
        raise NotNow(problem) from problem
    if error and error.get("temporary"):
        raise NotNow(error)
    return error and f"{error['code']} {error['message']}"


def relay(connection):
    """Hands some rows on, and returns how many. What was handed on before a failure stays so."""
    failure = None
    with connection.transaction(), connection.cursor() as cursor:
        rows = cursor.execute(TAKE, [AT_A_TIME]).fetchall()
        for row in rows:
            try:
                refused = enqueue(*row)
            except NotNow as not_now:
                failure = not_now
                break
            if refused:
                cursor.execute("UPDATE outbox SET error = %s WHERE id = %s", [refused, row[0]])
            else:
                cursor.execute("DELETE FROM outbox WHERE id = %s", [row[0]])
    if failure:
        raise failure
    return len(rows)


def main():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("LISTEN outbox")
        while True:
            try:
                if relay(connection) == 0:
                    for _ in connection.notifies(timeout=LOOK_AGAIN, stop_after=1):
                        pass
            except NotNow as not_now:
                print(f"trying again: {not_now}", flush=True)
                time.sleep(PAUSE)


if __name__ == "__main__":
    main()
