"""A whole system: a broker, two gateways, two workers and a purger on free ports, in a directory of its own."""

import json
import os
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

SDK = Path(__file__).resolve().parents[2]
TIDEGATE = Path(os.environ.get("SDK_TESTS_BIN", SDK.parents[2] / "target/debug")).resolve() / "tidegate"
CONFIG = SDK / "tidegate.toml"
START_LIMIT = 60
LOOK_AGAIN = 0.02


class Stack:
    """Runs inside a `with` block."""

    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "up.log"

    def __enter__(self):
        assert TIDEGATE.is_file(), f"there is no {TIDEGATE}: run `cargo build --workspace --bins`"
        members = ["--gateways", "2", "--workers", "2"]
        with self.log.open("w") as log:
            self.supervisor = subprocess.Popen(
                [TIDEGATE, "up", "--free-ports", *members, "--config", CONFIG, "--dir", self.directory],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.supervisor.poll() is None:
            self.supervisor.terminate()
            try:
                self.supervisor.wait(30)
            except subprocess.TimeoutExpired:
                # It may have been about to end its processes: `down` ends what it left.
                self.supervisor.kill()
                self.supervisor.wait()
                self._run("down", "--dir", self.directory)

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                processes = self.processes()
            except subprocess.CalledProcessError:
                processes = []
            if len(processes) == 6 and all(process["phase"] == "ready" for process in processes):
                return
            if time.monotonic() > deadline or self.supervisor.poll() is not None:
                raise RuntimeError("the stack did not start:\n" + self.log.read_text())
            time.sleep(LOOK_AGAIN)

    def _run(self, *args, **environment):
        done = subprocess.run(
            [TIDEGATE, *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            env={**os.environ, **environment},
        )
        return done.stdout

    def processes(self):
        """Returns the state of every process."""
        return json.loads(self._run("status", "--json", "--dir", self.directory))

    def _address(self, name, kind="address"):
        return next(process[kind] for process in self.processes() if process["name"] == name)

    def gateway(self, number):
        """The address clients connect to."""
        return self._address(f"gateway-{number}")

    def api(self, number):
        """The address of the server API."""
        return self._address(f"gateway-{number}", "internal") + "/api"

    def kill(self, name):
        """kill -9. The supervisor starts the process again."""
        self._run("kill", name, "--dir", self.directory)

    def drain(self, name):
        """SIGTERM. Returns when the process has ended; it stays down until `bring_up`."""
        self._run("stop", name, "--dir", self.directory)

    def bring_up(self, name):
        """Returns when the process works."""
        self._run("start", name, "--dir", self.directory)

    def publish(self, channel, data):
        """Publishes through NATS, as a service does."""
        arguments = ["pub", channel, json.dumps(data), "--as-service", "--config", CONFIG]
        self._run(*arguments, TIDEGATE_NATS__URL=self._address("nats"))

    def service_url(self):
        """The broker's address with the credentials of a service."""
        address = urlsplit(self._address("nats"))
        return f"nats://service:dev-service@{address.netloc}"
