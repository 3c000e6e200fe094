"""A reader of the README: does what it says, in its order, in a copy of the repository on free ports."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from support.stack import TIDEGATE

ROOT = Path(__file__).resolve().parents[5]
NODE_MODULES = ROOT / "gateway" / "tests" / "sdk" / "js" / "node_modules"
LIMIT = 60
LOOK_AGAIN = 0.02

# What the reader's machine has and this one may lack. The programs are built before the tests, so cargo has nothing to do.
COMMANDS = {
    "cargo": "#!/bin/sh\nexit 0\n",
    "npm": '#!/bin/sh\n[ "$*" = "install --prefix hello centrifuge ws" ] || exit 1\n'
    f'mkdir hello && ln -s "{NODE_MODULES}" hello/node_modules\n',
    "nats": f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("nats_cli.py")}" "$@"\n',
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and the name under which the page says to save it."""

    language: str
    text: str
    file: str | None


def blocks(page):
    """The page's blocks that have a language, in order."""
    found, end = [], 0
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        name = re.search(r"Save this as `([^`]+)`", page[end : fence.start()])
        end = fence.end()
        if fence[1]:
            found.append(Block(fence[1], fence[2], name and name[1]))
    return found


def free_ports():
    """The README's ports, and free ones in their place."""
    for _ in range(100):
        base = random.randrange(12000, 28000)
        ours = {8000: base, 9000: base + 1, 4222: base + 2, 9109: base + 3, 5173: base + 4, 9100: base + 5}
        if all(_is_free(port) for port in [*range(base, base + 10), ours[4222] + 4000]):
            return ours
    raise RuntimeError("no free ports")


def _is_free(port):
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Program:
    """A program in a terminal of its own."""

    def __init__(self, process, log):
        self.process = process
        self.log = log

    def says(self, text, limit=LIMIT):
        """Waits until the program has printed the text."""
        deadline = time.monotonic() + limit
        while text not in self.log.read_text():
            ended = self.process.poll()
            assert ended is None or text in self.log.read_text(), f"ended with {ended}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log.read_text()}"
            time.sleep(LOOK_AGAIN)

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Reader:
    """Runs inside a `with` block, which ends every program that still runs."""

    def __init__(self, directory):
        self.home = directory / "tidegate"
        self.logs = directory / "logs"
        self.ports = free_ports()
        self.programs = []
        commands = directory / "bin"
        for path in (self.home / "target", self.logs, commands):
            path.mkdir(parents=True)
        for entry in ROOT.iterdir():
            if entry.name not in ("target", "hello", ".run", ".git"):
                (self.home / entry.name).symlink_to(entry)
        (self.home / "target" / "release").symlink_to(TIDEGATE.parent)
        for name, text in COMMANDS.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "MAKE"))},
            "PATH": f"{commands}:{os.environ['PATH']}",
            "TIDEGATE_NATS__URL": f"nats://127.0.0.1:{self.ports[4222]}",
            "TIDEGATE_GATEWAY__LISTEN": f"127.0.0.1:{self.ports[8000]}",
            "TIDEGATE_GATEWAY__INTERNAL": f"127.0.0.1:{self.ports[9000]}",
            "TIDEGATE_WORKER__INTERNAL": f"127.0.0.1:{self.ports[9100]}",
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.end()
        subprocess.run([TIDEGATE, "down"], cwd=self.home, env=self.environment, capture_output=True, check=False)

    def _text(self, block):
        for theirs, ours in self.ports.items():
            block = re.sub(rf"\b{theirs}\b", str(ours), block)
        return block

    def save(self, block):
        (self.home / block.file).write_text(self._text(block.text))

    def type(self, block, limit=LIMIT, **environment):
        """Runs a block to its end and returns what it printed."""
        done = subprocess.run(
            ["sh", "-e", "-c", self._text(block.text)],
            cwd=self.home,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
        assert done.returncode == 0, f"{block.text}{done.stdout}"
        return done.stdout

    def start(self, block, **environment):
        """Runs a block in a terminal of its own."""
        log = self.logs / f"{len(self.programs)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["sh", "-e", "-c", self._text(block.text)],
                cwd=self.home,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.programs.append(Program(process, log))
        return self.programs[-1]

    def open(self, page, origin, inputs):
        """Opens a page as a browser does, fills its fields and submits its forms in order."""
        program = Block("sh", 'exec node "$SCRIPT"', None)
        script = ROOT / "gateway" / "tests" / "sdk" / "js" / "support" / "page.js"
        return self.start(
            program, SCRIPT=str(script), PAGE=self._text(page), ORIGIN=self._text(origin), INPUTS=inputs
        )
