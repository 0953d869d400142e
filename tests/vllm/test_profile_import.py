"""Recipes and command lines of others as profiles: what is carried, in which order it wins, and what is told to be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder.documents.profile import load_profile
from builder.util.errors import InputError
from builder.vllm.imports.shell import from_command
from builder.vllm.imports.spark import from_spark
from builder.vllm.imports.upstream import from_upstream
from tests.support.cli import builder

# The format of vllm-project/recipes, with invented content: each part sets one thing of its own, and one that a later part wins.
UPSTREAM: dict[str, Any] = {
    "meta": {"title": "Some Model", "description": "A model.", "date_added": "2026-01-01"},
    "model": {
        "model_id": "org/Some-Model",
        "min_vllm_version": "0.18.0",
        "base_args": ["--trust-remote-code", "--max-num-seqs", "1", "-cc.level=3"],
        "base_env": {"VLLM_A": "base", "VLLM_B": 1},
    },
    "dependencies": [{"command": "uv pip install other"}],
    "features": {
        "tool_calling": {"args": ["--tool-call-parser", "hermes", "--enable-auto-tool-choice"]},
        "spec_decoding": {
            "args": ["--speculative-config", '{"method":"mtp","num_speculative_tokens":1}'],
            "hardware_overrides": {"blackwell": {"args": ["--speculative-config", '{"method":"mtp","num_speculative_tokens":3}']}},
        },
    },
    "opt_in_features": ["spec_decoding"],
    "variants": {
        "default": {"precision": "bf16"},
        "fp4": {
            "model_id": "other/Some-Model-FP4",
            "extra_args": ["--kv-cache-dtype fp8", "--max-num-seqs=2"],
            "extra_env": {"VLLM_A": "variant"},
            "tp": {"b200": 2, "default": 4},
            "hardware_overrides": {"blackwell": {"extra_args": ["--moe-backend", "x"]}},
        },
    },
    "compatible_strategies": ["single_node_tp", "multi_node_tp"],
    "hardware_overrides": {
        "blackwell": {"extra_args": ["--max-num-seqs", "3"], "extra_env": {"VLLM_A": "hardware"}},
        "amd": {"extra_args": ["--block-size", "64"]},
        "nvidia": {"extra_args": ["--no-enable-prefix-caching"]},
    },
    "strategy_overrides": {},
    "guide": "text",
    "something_new": 1,
}  # fmt: skip


def test_each_part_applies_in_the_formats_own_order() -> None:
    base = from_upstream(UPSTREAM)
    assert base.flags == {
        "trust-remote-code": True, "max-num-seqs": 1, "compilation-config.level": 3, "tool-call-parser": "hermes",
        "enable-auto-tool-choice": True,
    }  # fmt: skip
    assert (base.env, base.model, base.name) == ({"VLLM_A": "base", "VLLM_B": "1"}, "org/Some-Model", "some-model")
    both = from_upstream(UPSTREAM, variant="fp4", hardware="NVIDIA B200", features=["spec_decoding"])
    assert both.flags["max-num-seqs"] == 3
    assert both.flags["kv-cache-dtype"] == "fp8"
    assert both.flags["tensor-parallel-size"] == 4 or both.flags["tensor-parallel-size"] == 2
    assert both.flags["moe-backend"] == "x"
    assert json.loads(both.flags["speculative-config"])["num_speculative_tokens"] == 3
    assert "tool-call-parser" not in both.flags
    assert both.env["VLLM_A"] == "hardware"
    assert both.model == "other/Some-Model-FP4"
    assert both.hardware is not None and both.hardware.gpu == "b200"
    assert from_upstream(UPSTREAM, hardware="h200").flags["enable-prefix-caching"] is False
    assert from_upstream(UPSTREAM, hardware="AMD Instinct MI300X").flags["block-size"] == 64
    assert from_upstream(UPSTREAM, gpus=8, hardware="b200").flags["tensor-parallel-size"] == 8
    for found in (base, both):
        assert found.profile().name == found.name


def test_what_is_lost_is_told() -> None:
    lost = dict(from_upstream(UPSTREAM).lost)
    assert {
        "feature spec_decoding",
        "min_vllm_version 0.18.0",
        "dependency: uv pip install other",
        "something_new",
    } <= set(lost)
    assert any(what.startswith("hardware_overrides of blackwell, amd, nvidia") for what in lost)
    assert any(what.startswith("strategies multi_node_tp") for what in lost)


@pytest.mark.parametrize("wrong", [{"variant": "x"}, {"hardware": "rtx-9999"}, {"features": ["x"]}])
def test_what_the_recipe_lacks_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        from_upstream(UPSTREAM, **wrong)
    assert refused.value.hint


SPARK = {
    "recipe_version": "1",
    "name": "Some Model",
    "model": "org/Some-Model",
    "container": "vllm-node",
    "build_args": ["--tf5"],
    "mods": ["mods/fix"],
    "cluster_only": True,
    "defaults": {"port": 8000, "tensor_parallel": 2, "gpu_memory_utilization": 0.7},
    "env": {"NCCL_DEBUG": "WARN", "HF_TOKEN": "x", "VLLM_USE_DEEP_GEMM": 0},
    "command": "vllm serve org/Some-Model \\\n  --port {port} -tp {tensor_parallel} \\\n"
    "  --gpu-memory-utilization {gpu_memory_utilization} --trust-remote-code \\\n"
    "  --compilation-config '{{\"level\":3}}'\n",
}


def test_a_command_template_is_filled() -> None:
    found = from_spark(SPARK)
    assert found.flags == {
        "port": 8000, "tensor-parallel-size": 2, "gpu-memory-utilization": "0.7", "trust-remote-code": True,
        "compilation-config": '{"level":3}',
    }  # fmt: skip
    assert found.env == {"NCCL_DEBUG": "WARN", "VLLM_USE_DEEP_GEMM": "0"}
    lost = [what for what, _ in found.lost]
    for start in ("env HF_TOKEN", "build_args: --tf5", "mods: mods/fix", "cluster_only", "container: vllm-node"):
        assert any(what.startswith(start) for what in lost), start
    with pytest.raises(InputError, match="port"):
        from_spark({**SPARK, "defaults": {}})


@pytest.mark.parametrize(
    ("text", "model", "flags", "env"),
    [
        ("vllm serve a/b", "a/b", {}, {}),
        ("$ vllm serve a/b -tp 2 --enforce-eager", "a/b", {"tensor-parallel-size": 2, "enforce-eager": True}, {}),
        ("vllm serve --trust-remote-code a/b --x_y 1", "a/b", {"trust-remote-code": True, "x-y": 1}, {}),
        ("vllm serve a/b --gpu-memory-utilization 0.90", "a/b", {"gpu-memory-utilization": "0.90"}, {}),
        ("export A_B=1\nVLLM_X=2 vllm serve a/b 2>&1 | tee log", "a/b", {}, {"A_B": "1", "VLLM_X": "2"}),
        ("M=a/b\nvllm serve $M \\\n  --served-model-name x y", "a/b", {"served-model-name": ["x", "y"]}, {"M": "a/b"}),
        ("vllm serve a/b --no-enable-prefix-caching -O3", "a/b", {"enable-prefix-caching": False, "optimization-level": 3}, {}),
        ("vllm serve a/b --seed 1 --seed 2", "a/b", {"seed": 2}, {}),
        ("python3 -m vllm.entrypoints.openai.api_server --model a/b --port 9", "a/b", {"port": 9}, {}),
        (
            "docker run --rm --gpus all -v ~/.cache:/root -e VLLM_X=1 --ipc=host vllm/vllm-openai:v1 --model a/b --port 9",
            "a/b", {"port": 9}, {"VLLM_X": "1"},
        ),
        ("docker run -it vllm/vllm-openai-rocm:v1 vllm serve a/b --port 9", "a/b", {"port": 9}, {}),
    ],
)  # fmt: skip
def test_command_lines_as_people_paste_them(text: str, model: str, flags: dict[str, Any], env: dict[str, str]) -> None:
    found = from_command(text)
    assert (found.model, found.flags, found.env) == (model, flags, env)


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("vllm serve a/b --api-key x", "--api-key"),
        ("vllm serve a/b --port $PORT", "--port $PORT"),
        ("pip install x && vllm serve a/b", "pip install x"),
        ("HF_TOKEN=x vllm serve a/b", "variable HF_TOKEN"),
        ("vllm serve a/b --config f.yaml", "--config"),
    ],
)
def test_what_a_profile_cannot_hold_is_lost_aloud(text: str, lost: str) -> None:
    found = from_command(text)
    assert lost in [what for what, _ in found.lost]
    assert found.flags == {} and found.env == {}


@pytest.mark.parametrize("text", ["", "ls", "vllm serve a; vllm serve b", "vllm serve 'a", "docker run ubuntu vllm"])
def test_without_one_server_there_is_no_profile(text: str) -> None:
    with pytest.raises(InputError):
        from_command(text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        from_command(f"vllm serve {text}")
    except InputError:
        return


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,5})?", fullmatch=True),
        st.one_of(st.integers(), st.from_regex(r"[A-Za-z/][A-Za-z0-9 {}\"':,./]{0,20}", fullmatch=True)),
        max_size=5,
    )
)
def test_a_profiles_own_command_is_the_profile_again(flags: dict[str, Any]) -> None:
    import shlex

    from builder.documents.profile import Profile

    plain = {name: value for name, value in flags.items() if name.partition("-")[0] not in ("no", "enable", "disable", "allow", "trust", "enforce", "use", "skip", "return", "async", "log", "calculate") and not name.endswith("-only") and name not in ("model", "config")}  # fmt: skip
    argv = Profile(name="p", flags=plain).argv()
    assert from_command(shlex.join(["vllm", "serve", "a/b", *argv])).flags == plain


def test_the_command_writes_a_profile_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(UPSTREAM))
    done = builder("profile", "import", "recipe.yaml", "--variant", "fp4", "--hardware", "b200", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    name = done.document["profile"]["name"]
    assert name == "some-model-fp4-b200"
    read = load_profile(tmp_path / "profiles" / f"{name}.yaml")
    assert read.flags["max-num-seqs"] == 3
    assert read.env["VLLM_A"] == "hardware"
    assert any(each["what"].startswith("min_vllm_version") for each in done.document["not_carried"])
    assert "not carried: min_vllm_version" in done.err
    again = builder("profile", "import", "recipe.yaml", "--variant", "fp4", "--hardware", "b200", cwd=tmp_path)
    assert (again.code, "--force" in again.err) == (2, True)
    line = builder("profile", "import", "--from-command", "vllm serve a/b --port 9", "--output", "-", cwd=tmp_path)
    assert yaml.safe_load(line.out) == {"name": "b", "flags": {"port": 9}}
    (tmp_path / "spark.yaml").write_text(yaml.safe_dump(SPARK))
    assert builder("profile", "import", "spark.yaml", "--name", "spark", cwd=tmp_path).code == 0
    assert load_profile(tmp_path / "profiles/spark.yaml").flags["tensor-parallel-size"] == 2


@pytest.mark.parametrize(
    "arguments",
    [(), ("recipe.yaml", "--from-command", "vllm serve x"), ("none.yaml",), ("other.yaml",), ("--from-command", "vllm serve x", "--variant", "y")],
)  # fmt: skip
def test_wrong_use_is_explained(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(UPSTREAM))
    (tmp_path / "other.yaml").write_text("a: 1\n")
    done = builder("profile", "import", *arguments, cwd=tmp_path)
    assert done.code == 2
    assert "error:" in done.err
