"""deploy/Dockerfile."""

import re

from support import DEPLOY, ROOT
from support.tools import run, tool

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROGRAMS = {"gateway": "tidegate-gateway", "worker": "tidegate-worker", "purger": "tidegate-purger", "tidegate": "tidegate"}


def lint(text):
    return run(tool("hadolint"), "--failure-threshold", "info", "-", stdin=text)


def stages(text):
    """Returns the instructions of each stage under its name."""
    parts = re.split(r"^FROM (\S+) AS (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {name: (image, body) for image, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


def moving_tags(text):
    """Returns images that may be another one tomorrow: neither a digest nor a full version."""
    images = [image for image, _ in stages(text).values() if image not in stages(text)]
    return [image for image in images if not re.search(r"@sha256:[0-9a-f]{64}$|:\d+\.\d+\.\d+(-\w+)?$", image)]


def test_the_linter_finds_nothing():
    assert lint(DOCKERFILE) == (0, "")


def test_the_linter_finds_a_user_by_name_and_an_image_without_a_version():
    code, output = lint(DOCKERFILE.replace("USER 65532:65532", "USER nonroot"))
    assert code != 0 and "DL3066" in output
    code, output = lint(DOCKERFILE.replace("rust:1.95.0-bookworm", "rust"))
    assert code != 0 and "DL3006" in output


def test_every_target_runs_its_program_once_at_the_build_and_as_its_entry_point():
    for target, program in PROGRAMS.items():
        image, body = stages(DOCKERFILE)[target]
        assert image == "base"
        assert f"COPY --from=build /out/{program} /usr/local/bin/{program}" in body
        assert re.search(rf'^RUN \["/usr/local/bin/{program}", "(--)?version"\]$', body, re.MULTILINE)
        assert f'ENTRYPOINT ["/usr/local/bin/{program}"]' in body


def test_every_program_that_serves_asks_itself_whether_it_lives():
    for target, program in PROGRAMS.items():
        asks = f'CMD ["/usr/local/bin/{program}", "--health-check"]' in stages(DOCKERFILE)[target][1]
        assert asks == (target != "tidegate"), target


def test_the_images_have_a_numeric_user_who_is_not_root():
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", stages(DOCKERFILE)["base"][1], re.MULTILINE)


def test_no_image_moves():
    assert moving_tags(DOCKERFILE) == []
    assert moving_tags(re.sub(r"@sha256:\w+", "", DOCKERFILE)) == ["gcr.io/distroless/cc-debian12:nonroot"]
    assert moving_tags(DOCKERFILE.replace(":1.95.0-bookworm", ":latest")) == ["rust:latest"]


def test_the_compiler_is_one_that_the_workspace_accepts():
    wanted = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert stages(DOCKERFILE)["build"][0].startswith(f"rust:{wanted}.")
