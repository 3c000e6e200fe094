"""Compares queries with docs/metrics.md: names of metrics, and names of labels."""

import re

from . import ROOT

# Labels that Prometheus or a histogram adds, and metrics of Prometheus itself.
LABELS_OF_ALL = {"instance", "job", "le", "__name__"}
METRICS_OF_PROMETHEUS = {"up"}
ROW = re.compile(r"^\| (`tidegate_\w+`(?:, `tidegate_\w+`)*) \| ([^|]*) \|", re.MULTILINE)
NAME = re.compile(r"\btidegate_\w+")
MATCHERS = re.compile(r"(tidegate_\w+)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
BY = re.compile(r"\bby\s*\(([^)]*)\)")


def documented():
    """Returns each series of docs/metrics.md under the name that Prometheus has for it, with its labels."""
    series = {}
    for names, kind in ROW.findall((ROOT / "docs/metrics.md").read_text()):
        labels = set(re.findall(r"`(\w+)`", kind))
        for name in re.findall(r"tidegate_\w+", names):
            base = name + "_seconds" if "seconds" in kind or "histogram" in kind else name
            if kind.startswith("counter"):
                series[base + "_total"] = labels
            elif kind.startswith("histogram"):
                series.update({base + ending: labels for ending in ("_bucket", "_sum", "_count")})
            else:
                series[base] = labels
    return series


def problems(expression):
    """Returns what a query asks for that no metric has."""
    known = documented()
    names = set(NAME.findall(expression))
    found = [f"no metric {name}" for name in sorted(names - known.keys())]
    for name, matchers in MATCHERS.findall(expression):
        for label in set(LABEL.findall(matchers)) - known.get(name, set()) - LABELS_OF_ALL:
            found.append(f"{name} has no label {label}")
    available = set().union(*(known.get(name, set()) for name in names)) | LABELS_OF_ALL
    for group in BY.findall(expression):
        for label in {part.strip() for part in group.split(",")} - available:
            found.append(f"no metric of the query has a label {label}")
    if not names and not METRICS_OF_PROMETHEUS & set(re.findall(r"\w+", expression)):
        found.append("the query asks for no metric")
    return found
