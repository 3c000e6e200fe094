"""The tests themselves: what they need has to be there."""

import re

import pytest
from support import ROOT, tools

DOCUMENT = (ROOT / "docs/deploy.md").read_text()


@pytest.mark.parametrize("name", ["hadolint", "promtool", "prometheus", "systemd-analyze", "nats-server"])
def test_a_tool_that_is_missing_fails_and_is_not_skipped(monkeypatch, name):
    assert tools.tool(name)
    monkeypatch.setattr(tools.shutil, "which", lambda *_, **__: None)
    with pytest.raises(pytest.fail.Exception, match=f"there is no {name}: "):
        tools.tool(name)


def test_a_program_that_is_not_built_fails_and_is_not_skipped(monkeypatch, tmp_path):
    monkeypatch.setattr(tools, "PROGRAMS", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="cargo build"):
        tools.tidegate()


def test_the_page_about_deploying_names_files_that_exist():
    paths = set(re.findall(r"\bdeploy/[\w./*@-]+\w", DOCUMENT)) | set(re.findall(r"\]\(\.\./([^)#]+)\)", DOCUMENT))
    assert len(paths) > 5
    for path in paths:
        assert list(ROOT.glob(path)), path
    for name in re.findall(r"^\| `([^`]+)`", DOCUMENT, re.MULTILINE):
        assert (ROOT / "deploy" / name).exists(), name
