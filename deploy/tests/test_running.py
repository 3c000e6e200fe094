"""compose.yaml as it runs, without containers: the broker, the step `apply`, and the three programs."""

import json
import os
import re
import urllib.error
import urllib.request

import pytest
from support import DEPLOY
from support.chart import of_kind, render
from support.compose import SECRET
from support.metrics import documented
from support.processes import Composition, ServiceManager, get, until
from support.tools import run, tidegate

PROGRAMS = ("gateway", "worker", "purger")


def start_all(composition):
    code, output = composition.once("apply", "apply")
    assert code == 0, output
    assert "create stream TIDE_IN_echo" in output
    for name in PROGRAMS:
        composition.start(name)


@pytest.fixture(scope="module")
def composition(tmp_path_factory):
    with Composition(tmp_path_factory.mktemp("compose")) as composition:
        start_all(composition)
        yield composition


def test_a_client_calls_a_worker_through_the_gateway(composition):
    env = {"PATH": os.defpath, "TIDEGATE_CONFIG": str(DEPLOY / "tidegate.toml"), "TIDEGATE_AUTH__HMAC_SECRET": SECRET}
    url = f"ws://{composition.addresses['gateway']['listen']}/connection/websocket"
    code, output = run(tidegate(), "call", "echo", '{"hello":"you"}', "--url", url, "--user", "42", env=env)
    assert code == 0, output
    assert json.loads(output.splitlines()[-1]) == {"hello": "you"}, output


def test_the_server_api_publishes_for_who_has_the_key(composition):
    def publish(key):
        request = urllib.request.Request(
            composition.internal("gateway", "/api/publish"),
            data=b'{"channel":"chat:lobby","data":{"text":"hi"}}',
            headers={"X-API-Key": key},
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)

    assert "result" in publish(SECRET)
    with pytest.raises(urllib.error.HTTPError):
        publish("another")


def test_the_port_of_clients_answers_what_is_no_handshake_as_the_chart_expects(composition):
    status, _ = get(f"http://{composition.addresses['gateway']['listen']}/connection/websocket")
    assert 400 <= status < 500


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_metric_of_a_program_is_documented_with_its_kind(composition, name):
    status, page = get(composition.internal(name, "/metrics"), Accept="application/openmetrics-text")
    assert status == 200
    known = documented()
    kinds = re.findall(r"^# TYPE (tidegate_\w+) (\w+)$", page, re.MULTILINE)
    assert len(kinds) >= 2
    ending = {"counter": "_total", "histogram": "_bucket", "gauge": ""}
    assert [metric for metric, kind in kinds if metric + ending[kind] not in known] == []


def test_prometheus_knows_the_metrics_by_their_documented_names_and_can_carry_out_every_alert(composition):
    composition.start_prometheus()

    def up():
        result = composition.ask_prometheus("query", query="up")["result"]
        return len(result) == 3 and all(series["value"][1] == "1" for series in result)

    def evaluated():
        groups = composition.ask_prometheus("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    until("Prometheus has asked all three", up)
    result = composition.ask_prometheus("query", query='{__name__=~"tidegate_.+"}')["result"]
    names = {series["metric"]["__name__"] for series in result}
    assert len(names) > 20 and names - documented().keys() == set()
    # The metric that gateways are scaled on, and one of each kind of program.
    assert {"tidegate_gateway_connections", "tidegate_worker_waiting", "tidegate_purger_kept_requests"} <= names
    rules = until("Prometheus has carried out the alerts", evaluated)
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_health_check_of_an_image_succeeds_while_the_program_lives(composition, name):
    assert composition.health_check(name) == 0
    nobody = {f"TIDEGATE_{name.upper()}__INTERNAL": "127.0.0.1:1"}
    assert composition.health_check(name, **nobody) == 1


def test_what_keda_asks_the_broker_for_is_there(composition):
    values = {"workers": {"default": {"keda": {"enabled": True, "routes": [{"name": "echo", "lag": 64}]}}}}
    (trigger,) = of_kind(render(values), "ScaledObject", "demo-worker-default")["spec"]["triggers"]
    wanted = trigger["metadata"]
    query = f"/jsz?acc={wanted['account']}&consumers=true&config=true"
    status, body = get(composition.addresses["monitoring"] + query)
    assert status == 200
    (account,) = json.loads(body)["account_details"]
    (stream,) = [stream for stream in account["stream_detail"] if stream["name"] == wanted["stream"]]
    assert wanted["consumer"] in [consumer["name"] for consumer in stream["consumer_detail"]]


def test_a_second_apply_changes_nothing(composition):
    code, output = composition.once("apply", "apply")
    assert code == 0, output
    assert "create" not in output and "update" not in output, output


def test_a_wrong_password_is_refused_by_the_broker(composition):
    code, output = composition.once("apply", "apply", TIDEGATE_NATS__SETUP__PASSWORD="0" * 40)
    assert code not in (0, 64), output


def test_programs_tell_the_service_manager_their_state_and_end_within_the_time_that_they_have(tmp_path):
    with Composition(tmp_path) as composition, ServiceManager(tmp_path) as manager:
        composition.service_manager = manager.variables()
        code, output = composition.once("apply", "apply")
        assert code == 0, output
        for name in PROGRAMS:
            composition.start(name)
            assert manager.hears("READY=1") and manager.hears("WATCHDOG=1"), name
            assert composition.stop(name) == 0, composition.log(name)
            assert manager.hears("STOPPING=1"), name
            manager.forget()
