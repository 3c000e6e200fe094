"""Finds and runs the programs that check files. One that is missing fails the test, and says how to get it."""

import os
import shutil
import subprocess
import sys

import pytest

from . import ROOT

LIMIT = 60
PROGRAMS = os.environ.get("DEPLOY_TESTS_BIN", ROOT / "target/debug")
HOW_TO_GET = {
    "systemd-analyze": "install systemd: it exists on Linux only",
    "promtool": "run `make test-deploy`, or put it on the PATH",
    "prometheus": "run `make test-deploy`, or put it on the PATH",
}


def tool(name):
    """Returns the path of a program: of the test's own tools first, then on the PATH."""
    folders = [ROOT / ".tools/deploy/bin", ROOT / ".tools/prometheus"]
    path = shutil.which(name, path=os.pathsep.join(map(str, folders))) or shutil.which(name)
    if path is None:
        pytest.fail(f"there is no {name}: {HOW_TO_GET.get(name, 'run `make test-deploy`, which installs it')}")
    return path


def tidegate(name="tidegate"):
    """Returns the path of one of Tidegate's own programs."""
    path = os.path.join(PROGRAMS, name)
    if not os.access(path, os.X_OK):
        pytest.fail(f"there is no {path}: run `cargo build --workspace --bins`")
    return path


def run(*command, env=None, cwd=None, stdin=None):
    """Runs a program to its end. Returns its exit code and all that it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        input=stdin,
        text=True,
        timeout=LIMIT,
        env=env,
        cwd=cwd,
        check=False,
    )
    return done.returncode, done.stdout


def python_tool(module, *arguments):
    """Runs a Python program of the test's own tools."""
    return run(sys.executable, "-m", module, *arguments)


def check_config(program, env):
    """Checks a configuration as a program of Tidegate does, with these variables and no others."""
    return run(tidegate(), "check-config", "--for", program, env={"PATH": os.defpath, **env})
