"""A PostgreSQL of Debian's package, on a socket in a directory of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

LIMIT = 30
LOOK_AGAIN = 0.02


def programs():
    """Where Debian keeps the newest version."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert versions, "this test needs Debian's package postgresql"
    return versions[-1]


def as_postgres(*command):
    """The server refuses to run as root."""
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] if os.getuid() == 0 else []
    return [*user, *map(str, command)]


class Postgres:
    """Runs inside a `with` block."""

    def __enter__(self):
        # The path of a socket is short.
        self.directory = Path(tempfile.mkdtemp(prefix="tide-pg-", dir="/tmp"))
        self.directory.chmod(0o777)
        data = self.directory / "data"
        make = as_postgres(programs() / "initdb", "-A", "trust", "-U", "postgres", "-N", "-D", data)
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/")
        start = as_postgres(
            programs() / "postgres", "-D", data, "-c", "listen_addresses=", "-c", "fsync=off", "-k", self.directory
        )
        self.log = (self.directory / "log").open("w")
        self.process = subprocess.Popen(start, stdout=self.log, stderr=self.log, cwd="/")
        deadline = time.monotonic() + LIMIT
        while subprocess.run([programs() / "pg_isready", "-h", self.directory], stdout=subprocess.DEVNULL).returncode:
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(LOOK_AGAIN)
        return self

    def __exit__(self, *_):
        pid = int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        self.process.wait(LIMIT)
        self.log.close()
        shutil.rmtree(self.directory)

    @property
    def url(self):
        return f"postgresql:///postgres?user=postgres&host={self.directory}"
