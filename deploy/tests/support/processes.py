"""Runs the services of compose.yaml as processes: the same commands, configuration and variables, on free ports."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

from . import DEPLOY
from .compose import environment, example, seconds, services
from .tools import run, tidegate, tool

START_LIMIT = 30
LOOK_AGAIN = 0.02


def until(what, answer, limit=START_LIMIT):
    """Waits until a function returns something, and returns it."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found = answer()
        if found:
            return found
        time.sleep(LOOK_AGAIN)
    raise TimeoutError(f"{what}: not within {limit} s")


def get(url, **headers):
    """Returns status and body; status 0 while nobody listens."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class ServiceManager:
    """Hears what programs tell systemd. Runs inside a `with` block."""

    def __init__(self, folder):
        self.path = folder / "notify.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(START_LIMIT)
        self.heard = set()

    def __enter__(self):
        self.socket.bind(str(self.path))
        return self

    def __exit__(self, *_):
        self.socket.close()

    def variables(self):
        """The watchdog wants to hear of a program every second."""
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": "1000000"}

    def hears(self, state):
        """Waits for a state. Raises an error if it is not told in time."""
        while state not in self.heard:
            self.heard.update(self.socket.recv(4096).decode().split())
        return True

    def forget(self):
        self.heard.clear()


class Composition:
    """Runs inside a `with` block."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = {}
        self.addresses = {}
        self.variables_of = {}
        self.service_manager = {}

    def __enter__(self):
        try:
            self._start_broker()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # The broker was started first, so it ends last.
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                process.kill()
                process.wait()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def _spawn(self, name, command, env):
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath, **env},
                cwd=self.folder,
            )

    def _start_broker(self):
        """Runs the broker with its own files. Only the ports and the folder of its data are others."""
        config = (DEPLOY / "nats/nats.conf").read_text()
        for written, here in (
            ("port: 4222", "port: -1"),
            ("http: 127.0.0.1:8222", "http: 127.0.0.1:-1"),
            ("store_dir: /data", f'store_dir: "{self.folder / "data"}"'),
        ):
            assert config.count(written) == 1, written
            config = config.replace(written, here)
        (self.folder / "nats.conf").write_text(config)
        (self.folder / "accounts.conf").write_text((DEPLOY / "nats/accounts.conf").read_text())
        command = [tool("nats-server"), "-c", self.folder / "nats.conf", "--ports_file_dir", self.folder]
        self._spawn("nats", command, environment("nats", example()))
        ports = json.loads(until("the broker's ports", lambda: next(map(_text, self.folder.glob("*.ports")), "")))
        self.addresses["nats"] = next(url for url in ports["nats"] if "127.0.0.1" in url)
        (path,) = (part for part in services()["nats"]["healthcheck"]["test"] if part.startswith("http"))
        self.addresses["monitoring"] = ports["monitoring"][0]
        health = self.addresses["monitoring"] + path.removeprefix("http://127.0.0.1:8222")
        until("the broker's health", lambda: get(health)[0] == 200)

    def variables(self, name, **changes):
        """Returns the variables of a service, with the broker and the ports of this test."""
        env = {**environment(name, example()), "TIDEGATE_CONFIG": str(DEPLOY / "tidegate.toml")}
        assert env["TIDEGATE_NATS__URL"] == "nats://nats:4222"
        env["TIDEGATE_NATS__URL"] = self.addresses["nats"]
        for key, value in env.items():
            if key.endswith(("__LISTEN", "__INTERNAL")):
                host, _, _ = value.rpartition(":")
                env[key] = f"{host}:{free_port()}"
        return {**env, **changes}

    def once(self, name, *arguments, **changes):
        """Runs a service to its end."""
        return run(tidegate(), *arguments, env={"PATH": os.defpath, **self.variables(name, **changes)}, cwd=self.folder)

    def start(self, name):
        """Starts a service and waits until it is ready."""
        env = self.variables(name)
        self.addresses[name] = {
            key.rpartition("__")[2].lower(): value.replace("0.0.0.0", "127.0.0.1")
            for key, value in env.items()
            if key.endswith(("__LISTEN", "__INTERNAL"))
        }
        self.variables_of[name] = env
        self._spawn(name, [tidegate(f"tidegate-{name}")], {**env, **self.service_manager})

        def ready():
            assert self.processes[name].poll() is None, self.log(name)
            return get(self.internal(name, "/readyz"))[0] == 200

        until(f"{name} is ready", ready)

    def health_check(self, name, **changes):
        """Returns the exit code of the health check in a service's image."""
        env = {"PATH": os.defpath, **self.variables_of[name], **changes}
        code, _ = run(tidegate(f"tidegate-{name}"), "--health-check", env=env, cwd=self.folder)
        return code

    def start_prometheus(self):
        """Runs Prometheus with its own file. Only the addresses of the programs and the intervals are others."""
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = dict.fromkeys(config["global"], "1s")
        for job in config["scrape_configs"]:
            (name,) = job.pop("dns_sd_configs")[0]["names"]
            job["static_configs"] = [{"targets": [self.addresses[name]["internal"]]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (self.folder / "alerts.yml").write_text((DEPLOY / "prometheus/alerts.yml").read_text())
        self.addresses["prometheus"] = {"internal": f"127.0.0.1:{free_port()}"}
        command = [
            tool("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address={self.addresses['prometheus']['internal']}",
        ]
        self._spawn("prometheus", command, {})
        until("Prometheus is ready", lambda: get(self.internal("prometheus", "/-/ready"))[0] == 200)

    def ask_prometheus(self, path, **parameters):
        """Returns the data of an answer of Prometheus's API."""
        query = urllib.parse.urlencode(parameters)
        status, body = get(self.internal("prometheus", f"/api/v1/{path}?{query}"))
        assert status == 200, body
        return json.loads(body)["data"]

    def internal(self, name, path):
        return f"http://{self.addresses[name]['internal']}{path}"

    def stop(self, name):
        """Stops a service as Docker does. Returns its exit code."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(seconds(services()[name]["stop_grace_period"]))


def _text(path):
    return path.read_text()
