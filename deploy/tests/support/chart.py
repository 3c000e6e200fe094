"""Renders the Helm chart, and checks what comes out."""

import json
from pathlib import Path

import helm_python
import jsonschema
import kubernetes_validate
import yaml

from . import DEPLOY

CHART = DEPLOY / "helm/tidegate"
SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"
# The oldest version of Kubernetes that Chart.yaml allows, and a recent one.
KUBERNETES = ("1.30", "1.37")
VALUES = {"defaults": {}} | {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "ci").glob("*.yaml"))}


def render(values, chart=CHART):
    """Returns all manifests. Values that the schema refuses are an error, as they are for `helm install`."""
    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        files = loaded.render(values=values, name="demo", namespace="tide")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def of_kind(manifests, kind, name=None):
    """Returns the manifests of a kind, or the one with a name."""
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    if name is None:
        return found
    (one,) = [manifest for manifest in found if manifest["metadata"]["name"] == name]
    return one


def validate(manifest):
    """Raises an error if Kubernetes would not take a manifest, or would drop a part of it."""
    own = SCHEMAS / f"{manifest['kind']}.json"
    if own.exists():
        jsonschema.validate(manifest, json.loads(own.read_text()))
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


def pods(manifests):
    """Returns name, pod template and the first container of everything that runs."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Job"):
            template = manifest["spec"]["template"]
            yield manifest["metadata"]["name"], template, template["spec"]["containers"][0]
        if manifest["kind"] == "Pod":
            yield manifest["metadata"]["name"], manifest, manifest["spec"]["containers"][0]


def environment(container):
    """Returns the variables of a container that have a value in the manifest."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
