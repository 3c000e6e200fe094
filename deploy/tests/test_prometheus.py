"""deploy/prometheus: alerts, their unit tests, and the configuration for compose.yaml."""

import shutil

import pytest
import yaml
from support import DEPLOY, ROOT
from support.compose import services
from support.defaults import CONNECTIONS
from support.metrics import documented, problems
from support.tools import run, tool

FOLDER = DEPLOY / "prometheus"


def rules(text=None):
    content = yaml.safe_load((FOLDER / "alerts.yml").read_text() if text is None else text)
    return [rule for group in content["groups"] for rule in group["rules"]]


def promtool(*arguments):
    return run(tool("promtool"), *arguments)


def unit_test(folder):
    return promtool("test", "rules", folder / "alerts.test.yml")


@pytest.fixture
def planted(tmp_path):
    """Returns a function that copies the folder and puts a mistake into the alerts."""

    def plant(right, wrong):
        shutil.copytree(FOLDER, tmp_path / "prometheus")
        alerts = tmp_path / "prometheus/alerts.yml"
        assert right in alerts.read_text()
        alerts.write_text(alerts.read_text().replace(right, wrong))
        return tmp_path / "prometheus"

    return plant


def test_prometheus_accepts_the_alerts_and_the_configuration():
    code, output = promtool("check", "rules", "--lint=all", "--lint-fatal", FOLDER / "alerts.yml")
    assert code == 0, output
    code, output = promtool("check", "config", FOLDER / "prometheus.yml")
    assert code == 0, output


def test_a_query_that_is_none_is_caught(planted):
    folder = planted("sum by (instance) (rate(", "sum by (instance) (rat(")
    code, output = promtool("check", "rules", folder / "alerts.yml")
    assert code != 0 and "rat" in output


def test_the_alerts_fire_when_they_should():
    code, output = unit_test(FOLDER)
    assert code == 0, output


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('reason="full"', 'reason="origin"'),
        ("> 0.85 * 18000", "> 1.85 * 18000"),
        ("> 0.01 * sum", "> 0.5 * sum"),
        ("floor_age_seconds) > 900", "floor_age_seconds) > 9"),
        ("for: 2m", "for: 2h"),
    ],
)
def test_an_alert_that_does_not_fire_when_it_should_is_caught(planted, right, wrong):
    code, output = unit_test(planted(right, wrong))
    assert code != 0 and "FAILED" in output


def test_every_alert_has_a_test_in_which_it_fires():
    content = yaml.safe_load((FOLDER / "alerts.test.yml").read_text())
    cases = [case for test in content["tests"] for case in test["alert_rule_test"]]
    fired = {case["alertname"] for case in cases if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_says_what_to_do(rule):
    assert problems(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith(".")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("tidegate_gateway_conections", "no metric tidegate_gateway_conections"),
        ("rate(tidegate_gateway_shed[5m])", "no metric tidegate_gateway_shed"),
        ('tidegate_gateway_connections{route="a"}', "tidegate_gateway_connections has no label route"),
        ("sum by (reason) (tidegate_gateway_connections)", "no metric of the query has a label reason"),
        ("tidegate_worker_queue_wait_bucket", "no metric tidegate_worker_queue_wait_bucket"),
        ("vector(1)", "the query asks for no metric"),
    ],
)
def test_a_name_that_no_metric_has_is_caught(query, found):
    assert found in problems(query)


def test_every_row_of_the_page_of_metrics_is_read():
    rows = [line for line in (ROOT / "docs/metrics.md").read_text().splitlines() if line.startswith("| `tidegate_")]
    names = {name.removesuffix("_total") for name in documented()}
    assert len(rows) > 40
    for row in rows:
        name = row.split("`")[1]
        assert any(known.startswith(name) for known in names), name


def test_the_alert_of_a_full_gateway_knows_the_default_limit():
    (rule,) = [rule for rule in rules() if rule["alert"] == "TidegateGatewayNearlyFull"]
    assert rule["expr"].endswith(f"* {CONNECTIONS}")


def test_prometheus_asks_the_ports_that_the_programs_of_compose_have():
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        (source,) = job["dns_sd_configs"]
        (name,) = source["names"]
        address = services()[name]["environment"][f"TIDEGATE_{name.upper()}__INTERNAL"]
        assert address == f"0.0.0.0:{source['port']}"
        assert job["job_name"].startswith("tidegate"), "the alerts know the jobs by this word"
    assert len(jobs) == 3
