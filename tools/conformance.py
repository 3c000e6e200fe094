"""Runs the cases of the Autobahn test suite against the echo behind the gateway's acceptor. Fails if a case fails."""

import glob
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter

# Compression, which the gateway does not offer.
EXCLUDED = ["12.*", "13.*"]
# Two cases ask for an error before a frame with invalid UTF-8 has come to its end. The standard does not.
NOT_STRICT = {"6.4.3", "6.4.4"}
PASSED = {"OK", "INFORMATIONAL"}
WAIT = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_port(port: int) -> None:
    deadline = time.monotonic() + WAIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"the echo does not listen on port {port} after {WAIT} s")
            time.sleep(0.05)


def outcomes(folder: str) -> dict[str, str]:
    found = {}
    for path in glob.glob(os.path.join(folder, "**", "index.json"), recursive=True):
        with open(path, encoding="utf-8") as index:
            for cases in json.load(index).values():
                found.update({case: result["behavior"] for case, result in cases.items()})
    return found


def main(runner: str, echo: str, folder: str) -> None:
    port = free_port()
    server = subprocess.Popen([echo, f"127.0.0.1:{port}"])
    try:
        await_port(port)
        excluded = [part for case in EXCLUDED for part in ("-x", case)]
        command = [runner, "-m", "fuzzingclient", "-p", "4", *excluded, "-o", folder, f"127.0.0.1:{port}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
        if server.poll() is not None:
            sys.exit(f"the echo has ended with {server.returncode}")
    finally:
        server.terminate()
        server.wait()
    found = outcomes(folder)
    print(", ".join(f"{count} {name}" for name, count in sorted(Counter(found.values()).items())))
    failed = [
        f"{case}: {behavior}"
        for case, behavior in sorted(found.items())
        if behavior not in PASSED and not (behavior == "NON-STRICT" and case in NOT_STRICT)
    ]
    if failed or len(found) < 250:
        sys.exit(f"{len(found)} cases, {len(failed)} did not pass: {'; '.join(failed)}; reports are in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
