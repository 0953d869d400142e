"""The overlay's diffs and the recipes that use them: without the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder.documents.recipe import load_recipe
from tests.support.cli import builder
from tests.support.services import leave_out

HERE = Path(__file__).parents[2]
FOLDER = HERE / "overlays/fp8-vocab"
MODULE = "vllm/model_executor/layers/quantization/fp8_vocab.py"


def new_module(diff: Path) -> list[str]:
    """The lines of the file that the diff adds."""
    part = diff.read_text().split(f"+++ b/{MODULE}\n")[1].split("\ndiff --git")[0]
    return [line[1:] for line in part.splitlines() if line.startswith("+")]


def test_both_diffs_add_the_same_module() -> None:
    one, other = new_module(FOLDER / "fp8-vocab.diff"), new_module(FOLDER / "fp8-vocab-0.32.diff")
    assert one == other
    assert len(one) > 150
    compile("\n".join(one), MODULE, "exec")


def test_the_recipes_are_the_flagships_but_for_the_overlays() -> None:
    flagship = yaml.safe_load((HERE / "images/qwen3.6-27b-fp8-vocab.yaml").read_text())
    local = yaml.safe_load((HERE / "images/qwen3.6-27b-fp8-vocab-local.yaml").read_text())
    newer = yaml.safe_load((HERE / "images/qwen3.6-27b-fp8-vocab-0.32.yaml").read_text())
    assert local["overlays"][0] == flagship["overlays"][0]
    for name in ("model", "envelope", "profiles", "default_profile", "platforms"):
        assert local[name] == newer[name] == flagship[name]
    requires = flagship["overlays"][1]["requires"]
    assert local["overlays"][1]["requires"] == newer["overlays"][0]["requires"] == requires
    for name in ("local", "0.32"):
        load_recipe(HERE / f"images/qwen3.6-27b-fp8-vocab-{name}.yaml")


@pytest.mark.wheels
def test_rebase_takes_the_overlay_to_newer_releases(tmp_path: Path) -> None:
    """To 0.21.0 as it is, to 0.25.1 by merging; on 0.32.0 the base has changed the same lines, and that is said."""
    (tmp_path / "images").mkdir()
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/v.diff").write_bytes((FOLDER / "fp8-vocab.diff").read_bytes())
    (tmp_path / "images/v.yaml").write_text("name: v\nbase: wheel:vllm==0.20.0\noverlays:\n  - file: overlays/v.diff\n")
    bases = [word for version in ("0.21.0", "0.25.1") for word in ("--base", f"wheel:vllm=={version}")]
    done = builder("lock", "v", cwd=tmp_path)
    done = builder("rebase", "v", *bases, "--json", cwd=tmp_path) if done.code == 0 else done
    if done.code == 5:
        leave_out(f"needs the package registry: {done.err[-300:]}")
    assert done.code == 0, done.err
    refused = builder("rebase", "v", "--base", "wheel:vllm==0.32.0", cwd=tmp_path)
    assert refused.code == 3
    assert "qwen3_5.py" in refused.out + refused.err
    moved = builder("rebase", "v", "--base", "wheel:vllm==0.25.1", "--write", cwd=tmp_path)
    assert moved.code == 0, moved.err
    checked = builder("check", "v", cwd=tmp_path)
    assert checked.code == 0, checked.out + checked.err
