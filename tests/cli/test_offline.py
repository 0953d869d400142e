"""`--offline` means it: no command that has the option talks to anybody, whatever is missing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from builder.cli.app import cli, run
from tests.support.smallwheel import make_project
from tests.support.standin import write_layout

DIFF = b"--- a/vllm/old.py\n+++ b/vllm/old.py\n@@ -1 +1 @@\n-gone = True\n+gone = False\n"
PULL = "vllm-project/vllm#39931"


class Door:
    """Somebody who may be called, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            self.calls += 1
            caller.close()

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """Everything that has an address has this one."""
    made = Door()
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "BUILDER_GITHUB_URL",
        "BUILDER_GITHUB_API_URL",
        "HF_ENDPOINT",
    ):
        monkeypatch.setenv(name, f"http://{made.host}")
        monkeypatch.setenv(name.lower(), f"http://{made.host}")
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, f"http://{made.host}/simple")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("BUILDER_HTTP_TIMEOUT", "0.3")
    yield made
    made.close()


def offline_commands() -> dict[str, click.Command]:
    """The commands that have the option, by their names on the command line."""
    found: dict[str, click.Command] = {}

    def look(group: click.Group, words: list[str]) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                look(command, [*words, name])
            elif command is not None and any("--offline" in each.opts for each in command.params):
                found[" ".join([*words, name])] = command

    look(cli, [])
    return found


ARGUMENTS = {
    "build": ["small", "--engine", "oci"],
    "check": ["small"],
    "lock": ["small"],
    "profile lint": ["tiny", "--recipe", "small"],
    "profile show": ["tiny", "--resolved", "--recipe", "small"],
    "rebase": ["small", "--base", "wheel:vllm==0.0.2", "--base", "vllm/vllm-openai:v0.0.2"],
    "render": ["small", "--output", "dockerfile"],
    "stack export": ["small", "--output", "stack"],
    "verify": ["vllm/vllm-openai:v0.0.1", "--recipe", "small"],
}
# What a recipe has that somebody would have to be asked for.
RECIPES = {
    "a pull request": {"overlays": [{"pull": PULL}]},
    "a release's wheel": {"base": "wheel:vllm==0.0.1"},
    "an image": {"base": "vllm/vllm-openai:v0.0.1"},
    "a checkpoint": {"checkpoint": {"repo": "o/n"}},
}


def test_every_command_that_has_the_option_is_here() -> None:
    assert offline_commands().keys() == {*ARGUMENTS, "stack import", "doctor"}


@pytest.mark.parametrize("missing", RECIPES)
@pytest.mark.parametrize("command", ARGUMENTS)
def test_offline_calls_nobody(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    door: Door,
    command: str,
    missing: str,
) -> None:
    local = missing in ("a release's wheel", "an image")
    project = make_project(tmp_path / "project", {"one.diff": DIFF} if local else {}, **RECIPES[missing])  # type: ignore[arg-type]
    monkeypatch.chdir(project)
    code = run([*command.split(), *ARGUMENTS[command], "--offline"])
    said = capfd.readouterr().err
    assert (code, door.calls) == (2, 0), said
    # Of a recipe without a lock, these say what makes one before they need anything else.
    assert ("builder lock small" if command in ("rebase", "stack export", "verify") else "--offline") in said


def test_the_doctor_asks_nobody_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], door: Door
) -> None:
    document = {"pull": PULL}
    project = make_project(
        tmp_path, {}, overlays=[document], checkpoint={"repo": "o/n"}, base="vllm/vllm-openai:v0.0.1"
    )
    monkeypatch.chdir(project)
    assert run(["doctor", "--offline"]) == 0
    assert door.calls == 0
    assert "not asked" in capfd.readouterr().out


@pytest.mark.parametrize("base", ["wheel:vllm==0.0.1", "vllm/vllm-openai:v0.0.1"])
def test_an_import_offline_asks_no_base_what_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], door: Door, base: str
) -> None:
    project = make_project(tmp_path / "project", {}, base=base)
    (project / "stack").mkdir()
    (project / "stack/series").write_text("inside.patch\n")
    (project / "stack/inside.patch").write_bytes(DIFF.replace(b"vllm/", b""))
    monkeypatch.chdir(project)
    code = run(["stack", "import", "stack", "--recipe", "small", "--offline"])
    said = capfd.readouterr().err
    assert (code, door.calls) == (0, 0), said
    assert "cannot look into the base" in said
    assert "--offline" in said


def test_verify_opens_no_second_image_in_a_registry_either(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], door: Door
) -> None:
    layout = write_layout(tmp_path / "image", [])
    for arguments in ([f"oci:{layout}", "--against", "vllm/vllm-openai:v0.0.1"], ["127.0.0.1:9/x:y"]):
        assert run(["verify", *arguments, "--offline"]) == 2
        assert "is in a registry" in capfd.readouterr().err
    assert door.calls == 0
