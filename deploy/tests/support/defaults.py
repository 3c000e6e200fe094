"""The drain times of Tidegate's defaults, in seconds."""

import tomllib

from . import ROOT
from .compose import seconds

_CONFIG = tomllib.loads((ROOT / "shared/src/config/default.toml").read_text())
GATEWAY_DRAIN = seconds(_CONFIG["gateway"]["drain"]["settle"]) + seconds(_CONFIG["gateway"]["drain"]["window"])
WORKER_DRAIN = seconds(_CONFIG["worker"]["drain"])
CONNECTIONS = _CONFIG["gateway"]["limits"]["connections"]
