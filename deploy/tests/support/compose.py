"""Reads compose.yaml as Docker Compose does, as far as the tests need it."""

import re

import yaml

from . import DEPLOY

VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")
# Of digits alone on purpose: a value that a configuration may take for a number.
SECRET = "1234567890" * 4


def services():
    """Returns the services, with the merge keys of YAML carried out."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def example():
    """Returns .env.example, with a secret for every line."""
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    return {line.split("=")[0]: SECRET for line in lines if line and not line.startswith("#")}


def environment(service, variables):
    """Returns the environment of a service. A variable that is missing where it has to be there is a KeyError."""

    def value(match):
        name, operator, default = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == "-":
            return default
        raise KeyError(name)

    return {key: VARIABLE.sub(value, str(text)) for key, text in services()[service].get("environment", {}).items()}


def seconds(text):
    """Returns a duration such as 20s or 1m in seconds."""
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]
