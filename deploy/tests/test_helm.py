"""deploy/helm/tidegate."""

import copy
import shutil

import helm_python
import jsonschema
import kubernetes_validate
import pytest
from support import ROOT
from support.chart import CHART, VALUES, environment, of_kind, pods, render, validate
from support.compose import SECRET, seconds
from support.tools import check_config

SECRETS = {
    "gateway": ("TIDEGATE_NATS__GATEWAY__PASSWORD", "TIDEGATE_AUTH__HMAC_SECRET", "TIDEGATE_API__KEY"),
    "worker": ("TIDEGATE_NATS__WORKER__PASSWORD",),
    "purger": ("TIDEGATE_NATS__PURGER__PASSWORD",),
    "apply": ("TIDEGATE_NATS__SETUP__PASSWORD",),
}
each_values = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())


def findings(chart, values):
    report = helm_python.lint(chart, values, strict=True, kube_version="v1.30.0")
    # Below a warning there is only the missing icon.
    return report["errors"] + [message for message in report["messages"] if message["severity"] > 1]


@each_values
def test_the_linter_finds_nothing(values):
    assert findings(CHART, values) == []


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("templates/gateway.yaml", "{{- end }}\n", ""),
        ("templates/purger.yaml", "metadata:\n", "metadata:\n\tname: tab\n"),
        ("Chart.yaml", "version: 0.1.0\n", "version: one\n"),
    ],
)
def test_the_linter_finds_a_planted_mistake(tmp_path, file, right, wrong):
    chart = tmp_path / "tidegate"
    shutil.copytree(CHART, chart)
    text = (chart / file).read_text()
    assert right in text
    (chart / file).write_text(text.replace(right, wrong, 1))
    assert findings(chart, {}) != []


@each_values
def test_kubernetes_accepts_what_is_rendered(values):
    manifests = render(values)
    for manifest in manifests:
        validate(manifest)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(names) == len(set(names)), "two objects have one name"


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("Deployment", ("spec", "replicas"), "two"),
        ("Deployment", ("spec", "strategie"), {}),
        ("NetworkPolicy", ("spec", "ingres"), []),
        ("PodDisruptionBudget", ("spec", "maxUnavailable"), {}),
        ("HorizontalPodAutoscaler", ("spec", "maxReplicas"), "many"),
        ("ScaledObject", ("spec", "maxReplicas"), 3),
        ("ScaledObject", ("spec", "triggers"), []),
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "often"),
    ],
)
def test_a_manifest_with_a_wrong_value_is_caught(kind, path, wrong):
    manifest = copy.deepcopy(of_kind(render(VALUES["all"]), kind)[0])
    validate(manifest)
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = wrong
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(manifest)


@pytest.mark.parametrize(
    "values",
    [
        {"gatway": {}},
        {"gateway": {"replica": 3}},
        {"gateway": {"replicas": "3"}},
        {"gateway": {"replicas": -1}},
        {"gateway": {"connections": 0}},
        {"gateway": {"drainWindowSeconds": "5s"}},
        {"gateway": {"service": {"type": "Loadbalancer"}}},
        {"gateway": {"podDisruptionBudget": {"maxUnavailable": 0}}},
        {"image": {"repository": "registry/with space"}},
        {"image": {"tag": "1.2.3@latest"}},
        {"nats": {"url": "http://nats:4222"}},
        {"nats": {"url": "nats:4222"}},
        {"nats": {"monitoring": "http://nats:8222"}},
        {"secrets": {"gateway": "A Secret"}},
        {"secrets": {"ops": "tidegate-ops"}},
        {"config": 'env = "development"\n'},
        {"config": {"env": "production"}},
        {"workers": {"Big": {}}},
        {"workers": {"orders": {"imag": "x"}}},
        {"workers": {"orders": {"keda": {"enabled": True}}}},
        {"workers": {"orders": {"keda": {"enabled": True, "routes": [{"name": "orders"}]}}}},
        {"workers": {"orders": {"keda": {"enabled": True, "routes": [{"name": "a b", "lag": 1}]}}}},
        {"serviceMonitor": {"interval": "15"}},
        {"networkPolicy": {"clientsFrom": "everybody"}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(values):
    with pytest.raises(helm_python.HelmValuesError):
        render(values)


@each_values
def test_every_program_accepts_its_configuration(tmp_path, values):
    manifests = render(values)
    for name, template, container in pods(manifests):
        if name == "demo-test":
            continue
        program = name.removeprefix("demo-").split("-")[0]
        (volume,) = [volume for volume in template["spec"]["volumes"] if volume["name"] == "config"]
        config = of_kind(manifests, "ConfigMap", volume["configMap"]["name"])
        file = tmp_path / "tidegate.toml"
        file.write_text(config["data"]["tidegate.toml"])
        assert environment(container)["TIDEGATE_CONFIG"] == "/etc/tidegate/tidegate.toml"
        env = {**environment(container), "TIDEGATE_CONFIG": str(file), **dict.fromkeys(SECRETS[program], SECRET)}
        code, output = check_config(program, env)
        assert code == 0, f"{name}: {output}"
        code, output = check_config(program, {**env, "TIDEGATE_GATEWAY__LISTN": "0.0.0.0:1"})
        assert code == 64, f"{name} accepts a variable that does not exist"


@each_values
def test_every_pod_outlives_its_drain(values):
    for name, template, container in pods(render(values)):
        env = environment(container) if "env" in container else {}
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = sum(seconds(value) for key, value in env.items() if "DRAIN" in key)
        assert name in ("demo-test", "demo-apply", "demo-purger") or drain > 0
        if drain:
            assert template["spec"]["terminationGracePeriodSeconds"] >= sleep + drain + 10, name


@each_values
def test_no_pod_may_do_more_than_it_has_to(values):
    for name, template, _ in pods(render(values)):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"], name


@each_values
def test_a_program_gets_its_own_secret_alone(values):
    for name, _, container in pods(render(values)):
        if name != "demo-test":
            program = name.removeprefix("demo-").split("-")[0]
            assert container["envFrom"] == [{"secretRef": {"name": f"tidegate-{program}"}}]


@each_values
def test_selectors_find_the_pods_of_one_component(values):
    manifests = render(values)
    labels = {name: template["metadata"]["labels"].items() for name, template, _ in pods(manifests)}
    for kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"):
        for manifest in of_kind(manifests, kind):
            spec = manifest["spec"]
            selector = spec.get("podSelector", spec.get("selector"))
            selector = selector.get("matchLabels", selector)
            found = [name for name, own in labels.items() if selector.items() <= own]
            assert found == [manifest["metadata"]["name"].removesuffix("-internal")], manifest["metadata"]["name"]


def test_a_new_configuration_makes_new_pods():
    def checksums(values):
        deployments = of_kind(render(values), "Deployment")
        return [each["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for each in deployments]

    before = checksums({})
    after = checksums({"config": 'env = "production"\n[auth]\nmax_token_life = "2h"\n'})
    assert len(before) == 3 and all(old != new for old, new in zip(before, after, strict=True))
    assert checksums({"gateway": {"replicas": 5}}) == before


def test_what_scales_has_no_fixed_number_of_replicas():
    manifests = render(VALUES["all"])
    for name in ("demo-gateway", "demo-worker-default", "demo-worker-orders"):
        assert "replicas" not in of_kind(manifests, "Deployment", name)["spec"]
    metric = of_kind(manifests, "HorizontalPodAutoscaler", "demo-gateway")["spec"]["metrics"][0]["pods"]
    assert metric["metric"]["name"] == "tidegate_gateway_connections"
    assert metric["target"]["averageValue"] == "30000"


def test_each_route_has_a_trigger_that_names_its_stream_and_its_consumer():
    spec = of_kind(render(VALUES["all"]), "ScaledObject", "demo-worker-orders")["spec"]
    assert spec["scaleTargetRef"]["name"] == "demo-worker-orders"
    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["stream"] == "TIDE_IN_orders" and trigger["metadata"]["consumer"] == "orders"
    assert trigger["metadata"]["account"] == "TIDEGATE"


def test_a_worker_has_the_defaults_where_it_says_nothing_and_its_own_values_where_it_does():
    manifests = render(VALUES["all"])
    webhooks = of_kind(manifests, "Deployment", "demo-worker-webhooks")["spec"]
    assert webhooks["replicas"] == 0
    assert webhooks["template"]["spec"]["containers"][0]["image"] == "registry.example.com/tidegate/worker:1.2.3"
    names = [each["metadata"]["name"] for each in of_kind(manifests, "PodDisruptionBudget")]
    assert "demo-worker-webhooks" not in names and "demo-worker-orders" in names


def test_streams_are_there_before_the_programs_are():
    job = of_kind(render({}), "Job", "demo-apply")["metadata"]["annotations"]
    config = of_kind(render({}), "ConfigMap", "demo-apply")["metadata"]["annotations"]
    assert job["helm.sh/hook"] == config["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(config["helm.sh/hook-weight"]) < int(job["helm.sh/hook-weight"])


@each_values
def test_the_test_of_a_release_asks_services_that_exist(values):
    manifests = render(values)
    ready, clients = of_kind(manifests, "Pod", "demo-test")["spec"]["containers"]
    assert ready["command"][-1] == "http://demo-gateway-internal:9000/readyz"
    assert of_kind(manifests, "Service", "demo-gateway-internal")["spec"]["ports"][0]["port"] == 9000
    port = of_kind(manifests, "Service", "demo-gateway")["spec"]["ports"][0]["port"]
    assert f" http://demo-gateway:{port}/connection/websocket " in clients["command"][-1]


def test_the_chart_has_the_version_of_the_programs():
    with helm_python.Chart.load(CHART) as chart:
        assert f'version = "{chart.metadata["appVersion"]}"' in (ROOT / "Cargo.toml").read_text()
