"""A profile as a file for `vllm serve --config`; the judge is how each release's own parser reads such a file."""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.documents.profile import Profile, load_profile
from builder.util.errors import InputError
from builder.vllm.config_file import config_text
from tests.support.cli import builder
from tests.support.pytrees import package_tree

ROOT = Path(__file__).parents[2]
VERSIONS = ("0.19.0", "0.20.0", "0.26.0", "0.33.0")

pytestmark = pytest.mark.wheels


def loader(version: str) -> Any:
    """`load_config_file` of a release, as it is written there."""
    folder = package_tree(version) / "vllm/utils"
    for path in sorted(folder.glob("*argparse*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "load_config_file":
                module = ast.Module([node], [])
                space: dict[str, Any] = {"yaml": yaml, "json": json, "Any": Any, "logger": logging.getLogger(__name__)}
                exec(compile(module, str(path), "exec"), space)
                return space["load_config_file"]
    raise AssertionError(f"vLLM {version} has no load_config_file")


def spelled(arguments: list[str]) -> list[str]:
    """Arguments with `--flag=-1` as two words, which is how a config file gives them."""
    return [
        word
        for each in arguments
        for word in (each.split("=", 1) if each.startswith("--") and "=-" in each else [each])
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["smoke", "production-ceiling", "envelope-16k", "smoke-cpu"])
def test_a_release_reads_the_profiles_own_arguments(version: str, name: str, tmp_path: Path) -> None:
    profile = load_profile(ROOT / "profiles" / f"{name}.yaml")
    (tmp_path / "c.yaml").write_text(config_text(profile))
    assert loader(version)(None, str(tmp_path / "c.yaml")) == spelled(profile.argv())


VALUES = st.one_of(
    st.booleans(), st.integers(-9, 9), st.text(st.characters(codec="ascii", min_codepoint=32), max_size=12).filter(lambda text: not text.startswith("-")),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-m][a-z]{0,6}(\.[a-z]{1,3})?", fullmatch=True), VALUES, max_size=5))
def test_any_value_comes_back_as_it_was(tmp_path: Path, flags: dict[str, Any]) -> None:
    profile = Profile(name="p", flags=flags)
    (tmp_path / "c.yaml").write_text(config_text(profile))
    read = loader("0.20.0")
    assert read(None, str(tmp_path / "c.yaml")) == spelled(profile.argv())


def test_the_command_prints_it_with_what_it_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/b.yaml").write_text("name: b\nflags: {seed: 1, x: [a, 2]}\nenv: {NCCL_DEBUG: INFO}\n")
    (tmp_path / "profiles/p.yaml").write_text("name: p\nextends: b\nflags: {seed: 2, enable-y: false}\n")
    done = builder("profile", "show", "p", "--format", "vllm", cwd=tmp_path)
    assert done.code == 0, done.err
    assert yaml.safe_load(done.out) == {"seed": 2, "x": ["a", 2], "no-enable-y": True}
    assert "#   NCCL_DEBUG=INFO" in done.out
    with pytest.raises(InputError):
        config_text(Profile(name="p", flags={"x": "-word"}))
