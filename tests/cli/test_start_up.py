"""What each command loads: a command that only prints does not wait for libraries that it does not use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.cli.app import COMMANDS
from tests.support.checkpoints import EMBED, HEAD, make_checkpoint, normal
from tests.support.smallwheel import make_project

ROOT = Path(__file__).parents[2]
_SCRIPT = """
import json, sys
from builder.cli.app import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""
# Everything that takes more than a few milliseconds to import. click is what `--help` itself needs.
HEAVY = {
    "docker", "git", "inspect_ai", "jinja2", "libcst", "numba", "numpy", "openai", "packaging", "pydantic",
    "requests", "rich", "safetensors", "scipy", "securesystemslib", "sigstore", "ssl", "torch", "unidiff", "urllib3", "yaml",
}  # fmt: skip
MODELS = {"pydantic", "yaml"}
GROUPS = {
    "profile": ("list", "show", "lint", "fit"),
    "checkpoint": ("digest", "quantize", "check"),
    "stack": ("export", "import"),
}


def loaded(*arguments: str, cwd: Path = ROOT) -> set[str]:
    """The heavy packages that a command has loaded when it ends well."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    code, names = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return HEAVY & set(names)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_click_and_nothing_else(command: str) -> None:
    assert loaded(*([command] if command else []), "--help") == set()
    for each in GROUPS.get(command, ()):
        assert loaded(command, each, "--help") == set()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A locked project on a wheel at hand."""
    root = make_project(tmp_path_factory.mktemp("start-up"), {"1.diff": _DIFF})
    loaded("lock", "small", cwd=root)
    return root


_DIFF = (
    b"diff --git a/vllm/engine/args.py b/vllm/engine/args.py\n--- a/vllm/engine/args.py\n+++ b/vllm/engine/args.py\n"
    b"@@ -1,3 +1,3 @@\n def parse(argv):\n-    return list(argv)\n+    return [*argv]\n \n"
)


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ("profile list", MODELS | {"rich"}),
        ("profile show tiny", MODELS),
        ("schema", MODELS),
        ("build small", MODELS | {"packaging"}),
        ("check small", MODELS | {"packaging", "rich"}),
    ],
)
def test_a_command_loads_what_it_uses(project: Path, arguments: str, allowed: set[str]) -> None:
    assert loaded(*arguments.split(), cwd=project) <= allowed


def test_quantizing_loads_no_documents(tmp_path: Path) -> None:
    source = make_checkpoint(
        tmp_path / "source", {"outside.safetensors": {HEAD: normal(128, 128), EMBED: normal(128, 128)}}
    )
    found = loaded("checkpoint", "quantize", str(source), str(tmp_path / "dest"))
    # numba imports PyYAML, and scipy where it is installed.
    assert "numpy" in found
    assert found <= {"numba", "numpy", "rich", "scipy", "yaml"}


def test_the_collector_has_nothing_to_look_through_at_the_end() -> None:
    """Python's last collection, over all that was imported, is a sixth of a short command."""
    script = "import atexit, gc; atexit.register(lambda: print(gc.get_count()[0], gc.get_freeze_count()))\n"
    script += "import sys; sys.argv = ['builder', 'profile', 'list']\nfrom builder.__main__ import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    left, frozen = map(int, done.stdout.splitlines()[-1].split())
    assert left < 1_000 < 20_000 < frozen
