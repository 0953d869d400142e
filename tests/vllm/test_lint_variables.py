"""A profile's environment against the variables of each release; the judge is that release's own `envs.py`, run."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from builder.documents.environment import is_secret, variable_problem
from builder.documents.profile import Profile, load_profile
from builder.documents.yamlfile import Document
from builder.util.errors import InputError
from builder.vllm.lint.context import Package
from builder.vllm.lint.findings import Finding
from builder.vllm.lint.run import lint, lint_file, read_package
from builder.vllm.lint.variables import _refusal
from builder.vllm.reader.source import from_files
from builder.vllm.reader.variables import read_variables
from tests.support.pytrees import LazyFiles, package_tree

pytestmark = pytest.mark.wheels

VERSIONS = ("0.19.0", "0.20.0", "0.22.1", "0.26.0", "0.33.0")
TEXTS = ("", "0", "1", "true", "False", "x", "1.5", "-1", "{}", "highest", "HIGH", "fork", "a,b", "1e3")
# They take the name of a file too.
FILES = {"VLLM_HUMMING_ONLINE_QUANT_CONFIG", "VLLM_HUMMING_INPUT_QUANT_CONFIG"}


def released(version: str) -> Package:
    return read_package(from_files(LazyFiles(package_tree(version)), version=version))


def envs_of(version: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"envs_{version.replace('.', '_')}", package_tree(version) / "vllm/envs.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def takes(module: ModuleType, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> bool | None:
    """Whether the release takes a value; None when that needs what is not installed here."""
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(os, "environ", os.environ.copy())
        os.environ[name] = text
        try:
            module.environment_variables[name]()
        except ValueError:
            return False
        except Exception:  # noqa: BLE001  an import of torch, or a file that is not there
            return None
        return True


@pytest.mark.parametrize("version", VERSIONS)
def test_a_value_is_refused_where_the_release_refuses_it(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = envs_of(version)
    known = read_variables(from_files(LazyFiles(package_tree(version)), version=version))
    assert known is not None and set(known) == set(module.environment_variables)
    differ = [
        (name, text, judged)
        for name, variable in known.items()
        if name not in FILES
        for text in TEXTS
        if (judged := takes(module, name, text, monkeypatch)) is not None
        and judged != (_refusal(variable, text) is None)
    ]
    assert differ == []


def findings(
    env: dict[str, str], version: str = "0.20.0", over: dict[str, bytes | None] | None = None
) -> list[Finding]:
    package = released(version)
    package.source.over = over or {}
    profile = Profile(name="p", flags={"max-num-seqs": 4}, env=env)
    found = lint(profile, Document("profiles/p.yaml", None), package).findings
    return [each for each in found if each.flag in env]


@pytest.mark.parametrize(
    ("env", "rule", "level", "hint"),
    [
        ({"VLLM_LOGING_LEVEL": "DEBUG"}, "unknown-variable", "error", "VLLM_LOGGING_LEVEL"),
        ({"VLLM_ATTENTION_BACKEND": "FLASHINFER"}, "unknown-variable", "error", "attention-backend"),
        ({"VLLM_USE_DEEP_GEMM": "true"}, "wrong-type", "error", "write 1"),
        ({"VLLM_IMAGE_FETCH_TIMEOUT": "5s"}, "wrong-type", "error", None),
        ({"VLLM_FLOAT32_MATMUL_PRECISION": "hightest"}, "bad-choice", "error", "highest"),
        ({"VLLM_ROCM_USE_AITER": "yes"}, "no-effect", "warning", "true"),
        ({"MY_OWN_SWITCH": "1"}, "unknown-variable", "not-checked", None),
    ],
)
def test_each_mistake_gets_its_finding(env: dict[str, str], rule: str, level: str, hint: str | None) -> None:
    (found,) = findings(env)
    assert (found.rule, found.level) == (rule, level)
    assert hint is None or hint in (found.hint or "")


def test_what_is_right_or_of_another_program_is_not_reported() -> None:
    env = {
        "VLLM_USE_DEEP_GEMM": "0", "VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_FLOAT32_MATMUL_PRECISION": "HIGH", "NCCL_DEBUG": "INFO",
        "CUDA_VISIBLE_DEVICES": "0,1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "8", "PYTORCH_CUDA_ALLOC_CONF": "x:y",
        "TORCH_CUDA_ARCH_LIST": "12.1a", "LD_LIBRARY_PATH": "/usr/lib", "TRITON_PTXAS_PATH": "/usr/bin/ptxas",
    }  # fmt: skip
    assert findings(env) == []


def test_a_deprecated_one_says_what_to_write_instead() -> None:
    (found,) = findings({"VLLM_MXFP4_USE_MARLIN": "1"}, "0.22.1")
    assert (found.rule, found.level) == ("deprecated", "warning")
    assert "--moe-backend marlin" in (found.hint or "")
    assert found.source is not None and found.source.startswith("vllm/envs.py:")
    (gone,) = findings({"VLLM_MXFP4_USE_MARLIN": "1"}, "0.26.0")
    assert (gone.level, "moe-backend" in (gone.hint or "")) == ("error", True)


def test_an_overlay_may_bring_a_variable() -> None:
    over: dict[str, bytes | None] = {"vllm/new.py": b"import os\nX = os.environ.get('VLLM_NEW_SWITCH')\n"}
    assert findings({"VLLM_NEW_SWITCH": "1"}, over=over) == []
    assert findings({"VLLM_NEW_SWITCH": "1"}) != []


def test_no_variable_of_a_release_is_taken_for_a_secret_but_for_the_real_ones() -> None:
    names = {name for version in VERSIONS for name in (released(version).variables or {})}
    assert {name for name in names if variable_problem(name)} == {
        "VLLM_API_KEY", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY",
    }  # fmt: skip
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "OPENAI_API_KEY",
        "GITHUB_TOKEN",
        "DB_PASSWORD",
    ):
        assert is_secret(name)
    for name in ("HF_TOKEN_PATH", "VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE", "TOKENIZERS_PARALLELISM"):
        assert not is_secret(name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("HF_TOKEN: x", "is a secret"),
        ("VLLM_API_KEY: x", "is a secret"),
        ("NOTE: hf_abcdefghijklmnopqrstuvwxyz0123456789", "looks like an access token"),
        ("VLLM_USE_DEEP_GEMM: true", "write 1 or 0"),
        ("A: [1]", "env.A"),
        ("A:", "has no value"),
        ("PYTHONPATH: /x", "other code"),
        ("HOME: /x", "set by the container"),
        ("BUILDER_PROFILE: p", "entrypoint"),
        ("A-B: x", "env"),
    ],
)
def test_what_a_profile_cannot_set_is_refused_with_its_place(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"name: p\nflags: {{}}\nenv:\n  {line}\n")
    with pytest.raises(InputError) as refused:
        load_profile(tmp_path / "p.yaml")
    assert says in refused.value.message
    assert "profiles/p.yaml:4:" in refused.value.message or "profiles/p.yaml:3:" in refused.value.message


def test_a_secret_flag_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: p\nflags: {api-key: abc}\n")
    report = lint_file(tmp_path / "p.yaml", released("0.20.0"))
    assert [(each.rule, each.level) for each in report.findings if each.rule == "secret"] == [("secret", "error")]


def test_an_inherited_variable_is_named_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\nflags: {max-num-seqs: 4}\nenv:\n  VLLM_LOGING_LEVEL: DEBUG\n")
    (tmp_path / "p.yaml").write_text("name: p\nextends: base\n")
    found: list[Any] = [
        each for each in lint_file(tmp_path / "p.yaml", released("0.20.0")).findings if each.rule == "unknown-variable"
    ]
    assert [each.place for each in found] == ["profiles/base.yaml:4:3"]
