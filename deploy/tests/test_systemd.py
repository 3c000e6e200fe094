"""deploy/systemd: the units, and the examples of their environments."""

import re

import pytest
from support import DEPLOY
from support.compose import SECRET, seconds
from support.defaults import CONNECTIONS, GATEWAY_DRAIN, WORKER_DRAIN
from support.tools import check_config, run, tidegate, tool

FOLDER = DEPLOY / "systemd"
UNITS = {"gateway": "tidegate-gateway.service", "worker": "tidegate-worker@.service", "purger": "tidegate-purger.service"}
# From 0 (nothing is allowed) to 10. What remains is the network, which the programs are for.
MOST_EXPOSURE = 1.5


def text(program):
    return (FOLDER / UNITS[program]).read_text()


def values(unit, key):
    return re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)


def verify(folder, program, unit):
    """Returns what systemd has to say about a unit: its exit code is 0 whatever it finds."""
    path = folder / UNITS[program]
    # The programs are not installed here. Those of the build take their place.
    path.write_text(re.sub(r"/usr/bin/(tidegate[\w-]*)", lambda found: tidegate(found[1]), unit))
    _, output = run(tool("systemd-analyze"), "verify", "--recursive-errors=no", path)
    return [line for line in output.splitlines() if UNITS[program].split(".")[0].rstrip("@") in line or str(path) in line]


def exposure(folder, program, unit):
    path = folder / UNITS[program]
    path.write_text(unit)
    code, output = run(tool("systemd-analyze"), "security", "--offline=yes", path)
    assert code == 0, output
    return float(re.search(r"exposure level for \S+: ([\d.]+)", output)[1])


@pytest.mark.parametrize("program", UNITS)
def test_systemd_has_nothing_to_say_about_a_unit(tmp_path, program):
    assert verify(tmp_path, program, text(program)) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ProtectSystem=strict", "ProtectSystem=strikt"),
        ("NoNewPrivileges=yes", "NoNewPriviliges=yes"),
        ("TimeoutStopSec=20s", "TimeoutStopSec=soon"),
        ("ExecStart=/usr/bin/tidegate-gateway", "ExecStart=tidegate-gateway --flag /no/such"),
    ],
)
def test_a_wrong_line_is_caught(tmp_path, right, wrong):
    assert right in text("gateway")
    assert verify(tmp_path, "gateway", text("gateway").replace(right, wrong)) != []


@pytest.mark.parametrize("program", UNITS)
def test_a_unit_may_do_little(tmp_path, program):
    assert exposure(tmp_path, program, text(program)) <= MOST_EXPOSURE


def test_a_unit_that_may_do_more_is_caught(tmp_path):
    open_unit = re.sub(r"^(Protect\w+|SystemCallFilter|CapabilityBoundingSet)=.*\n", "", text("gateway"), flags=re.MULTILINE)
    assert exposure(tmp_path, "gateway", open_unit) > MOST_EXPOSURE


def test_every_program_may_drain_before_it_is_killed():
    for program, drain in (("gateway", GATEWAY_DRAIN), ("worker", WORKER_DRAIN)):
        (stop,) = values(text(program), "TimeoutStopSec")
        assert seconds(stop) > drain, program


def test_a_gateway_may_have_as_many_descriptors_as_connections():
    (files,) = values(text("gateway"), "LimitNOFILE")
    assert int(files) > CONNECTIONS + 1000


@pytest.mark.parametrize("program", UNITS)
def test_a_unit_checks_the_configuration_as_its_own_program_does(program):
    assert values(text(program), "ExecStartPre") == [f"/usr/bin/tidegate check-config --for {program}"]
    assert values(text(program), "ExecStart")[0].split()[0] == f"/usr/bin/tidegate-{program}"
    assert values(text(program), "EnvironmentFile")[0] == f"/etc/tidegate/{program}.env"


@pytest.mark.parametrize("program", UNITS)
def test_the_check_accepts_the_example_once_its_secrets_are_there(program):
    lines = (FOLDER / f"{program}.env.example").read_text().splitlines()
    pairs = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    config = {"TIDEGATE_CONFIG": str(DEPLOY / "tidegate.toml")}
    code, output = check_config(program, {**config, **{key: value or SECRET for key, value in pairs.items()}})
    assert code == 0, output
    code, output = check_config(program, {**config, **{key: value for key, value in pairs.items() if value}})
    assert code == 64 and "needs a secret of your own" in output
