"""deploy/grafana: dashboards, and how Grafana finds them."""

import json
import re

import pytest
import yaml
from support import DEPLOY
from support.compose import services
from support.metrics import documented, problems
from support.tools import run, tool

FOLDER = DEPLOY / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def queries(dashboard):
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def plain(query):
    """Returns a query with a value for each of Grafana's variables."""
    return re.sub(r"\$\w+", ".*", query.replace("$__rate_interval", "5m"))


def parse(folder, dashboard):
    """Lets Prometheus read every query, as rules."""
    rules = [{"record": f"a:query{number}", "expr": plain(query)} for number, query in enumerate(queries(dashboard))]
    file = folder / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    return run(tool("promtool"), "check", "rules", "--lint=none", file)


def test_there_are_dashboards_for_the_whole_for_gateways_and_for_workers():
    assert set(DASHBOARDS) == {"overview", "gateway", "worker"}
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == 3


@each_dashboard
def test_prometheus_can_read_every_query(tmp_path, dashboard):
    code, output = parse(tmp_path, dashboard)
    assert code == 0, output


@each_dashboard
def test_every_query_asks_for_metrics_that_exist(dashboard):
    assert {query: problems(query) for query in queries(dashboard) if problems(query)} == {}


@each_dashboard
def test_a_wrong_query_is_caught(tmp_path, dashboard):
    planted = json.loads(json.dumps(dashboard))
    target = planted["panels"][0]["targets"][0]
    target["expr"] += ")"
    code, output = parse(tmp_path, planted)
    assert code != 0 and "parse error" in output
    target["expr"] = "tidegate_gateway_conections"
    assert problems(target["expr"]) != []


@each_dashboard
def test_counters_are_shown_as_rates(dashboard):
    for query in queries(dashboard):
        for name in re.findall(r"tidegate_\w+_(?:total|bucket)\b", query):
            assert re.search(rf"(rate|increase)\({name}", query), query


@each_dashboard
def test_panels_have_a_unit_a_title_and_a_place_of_their_own(dashboard):
    places = set()
    for panel in dashboard["panels"]:
        assert panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & places, panel["title"]
        places |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@each_dashboard
def test_every_variable_is_there_and_every_query_asks_the_chosen_source(dashboard):
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for query in (target["expr"] for target in panel["targets"]):
            assert set(re.findall(r"\$(\w+)", query)) - {"__rate_interval"} <= variables, query
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
            assert label in documented()[name] | {"instance"}


def test_grafana_of_compose_finds_the_dashboards_and_prometheus():
    mounts = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/tidegate.yaml").read_text())["providers"][0]
    assert mounts["./grafana"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services()
