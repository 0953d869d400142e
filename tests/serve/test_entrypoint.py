"""The entrypoint as it stands in an image: its own process, standard library only, on a root of its own."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from builder.checkpoint.digest import digest_directory
from builder.serve import entrypoint
from builder.util.context import Context
from builder.util.files import sha256

SOURCE = Path(entrypoint.__file__)
# The entrypoint has no types: it is written for any Python 3.
SERVE: Any = entrypoint
PROFILE = ["--quantization", "fp8", "--max-num-seqs", "4", "--enable-chunked-prefill", "--block-size=16"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with the entrypoint, a record, one patched file and a `vllm` that prints its arguments."""
    own = tmp_path / "opt/builder"
    own.mkdir(parents=True)
    shutil.copy(SOURCE, own / "serve")
    (own / "serve").chmod(0o755)
    package = tmp_path / "site/vllm"
    package.mkdir(parents=True)
    (package / "a.py").write_bytes(b"patched\n")
    program = tmp_path / "vllm"
    program.write_text(f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([os.getpid(), *sys.argv[1:]]))\n")
    program.chmod(0o755)
    record = {
        "schema": 1,
        "name": "test",
        "base": {"reference": "x", "digest": "sha256:0", "entrypoint": [str(program), "serve"], "cmd": []},
        "package": {"name": "vllm", "root": "site"},
        "overlays": [
            {"id": "o/r#1", "digest": "d" * 64, "head": "0" * 40, "title": "T", "drop_when": "merged,\n and out"},
            {"id": "overlays/two.diff", "digest": "e" * 64},
        ],
        "files": [
            {"path": "vllm/a.py", "before": sha256(b"stock\n"), "after": sha256(b"patched\n"), "overlays": ["one"]},
            {"path": "vllm/gone.py", "before": sha256(b"x"), "after": None, "overlays": ["one"]},
        ],
        "removed": ["vllm/__pycache__/a.cpython-312.pyc"],
        "entrypoint": sha256(SOURCE.read_bytes()),
        "model": str(tmp_path / "model"),
        "profiles": {"smoke": {"description": "fit", "argv": PROFILE}, "other": {"argv": []}},
        "default_profile": "smoke",
        "checkpoint": {"requires": {}},
    }
    write_record(tmp_path, record)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    return tmp_path


def write_record(root: Path, record: dict[str, Any]) -> None:
    (root / "opt/builder/record.json").write_text(json.dumps(record))


def record_of(root: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / "opt/builder/record.json").read_text())
    return document


def serve(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Start it as the image's ENTRYPOINT does: with the record's digest first."""
    path = root / "opt/builder/record.json"
    binding = f"--record=sha256:{sha256(path.read_bytes()) if path.is_file() else '0' * 64}"
    return unbound(root, binding, *arguments, **env)


def unbound(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "opt/builder/serve"), *arguments], capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **env},
    )  # fmt: skip


def argv(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)[1:]
    return found


def test_it_uses_the_standard_library_and_old_syntax_only() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_default_profile_and_a_named_one(image: Path) -> None:
    model = str(image / "model")
    assert argv(serve(image)) == ["serve", model, *PROFILE]
    assert argv(serve(image, "other")) == ["serve", model]
    assert argv(serve(image, BUILDER_PROFILE="other", BUILDER_MODEL="Qwen/Qwen3-8B")) == ["serve", "Qwen/Qwen3-8B"]


def test_without_a_default_the_profiles_are_listed_and_nothing_is_served(image: Path) -> None:
    write_record(image, record_of(image) | {"default_profile": None})
    done = serve(image)
    assert done.returncode == 2
    assert "smoke" in done.stdout and "other" in done.stdout
    assert "no default profile" in done.stderr and "docker run ... IMAGE smoke" in done.stderr
    assert argv(serve(image, "other")) == ["serve", str(image / "model")]
    assert argv(serve(image, BUILDER_PROFILE="other")) == ["serve", str(image / "model")]
    write_record(image, record_of(image) | {"profiles": {}})
    assert (serve(image).returncode, "no profiles" in serve(image).stderr) == (2, True)
    assert argv(serve(image, "a/b")) == ["serve", "a/b"]
    own = record_of(image)
    own["base"]["cmd"] = ["--help"]
    write_record(image, own)
    assert argv(serve(image)) == ["serve", "--help"]


def test_a_profiles_variables_are_set_unless_the_caller_has_set_them(image: Path) -> None:
    program = image / "vllm"
    program.write_text(
        f"#!{sys.executable}\nimport json, os\nprint(json.dumps([0, *(os.environ.get(n) for n in 'ABC')]))\n"
    )
    record = record_of(image)
    record["profiles"]["smoke"]["env"] = {"A": "profile", "B": "it's"}
    record["base"]["env"] = {"B": "stock"}
    write_record(image, record)
    assert argv(serve(image)) == ["profile", "it's", None]
    assert argv(serve(image, A="caller", C="own")) == ["caller", "it's", "own"]
    # What the base's config sets is in every container's environment: the caller has not set it.
    assert argv(serve(image, B="stock")) == ["profile", "it's", None]
    assert argv(serve(image, B="", A="")) == ["", "", None]
    assert argv(serve(image, "other")) == [None, None, None]
    printed = serve(image, "smoke", "--print", A="caller").stdout
    assert printed.startswith("env 'B=it'\"'\"'s' ")
    assert json.loads(serve(image, "smoke", "--print", "--json").stdout)[:3] == ["env", "A=profile", "B=it's"]
    assert "profile" in serve(image, "show", "smoke").stdout


def added(root: Path, files: dict[str, bytes]) -> None:
    """Files that the layer brings, recorded."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    listed = [{"path": name, "sha256": sha256(data)} for name, data in files.items()]
    write_record(root, record_of(root) | {"added": listed})


def test_added_files_are_compared_and_are_the_only_others_in_the_own_folder(image: Path) -> None:
    added(image, {"opt/builder/files/t/chat.jinja": b"x", "opt/builder/files/a.py": b"y", "site/vllm/c.json": b"{}"})
    assert serve(image, "verify").returncode == 0
    assert "3 added files" in serve(image, "verify").stdout
    assert serve(image).returncode == 0
    (image / "opt/builder/files/t/other").write_text("")
    (image / "site/vllm/c.json").write_text("[]")
    (image / "opt/builder/files/a.py").unlink()
    (image / "opt/builder/files/a.py").symlink_to("t/chat.jinja")
    done = serve(image, "verify")
    assert done.returncode == 4
    for text in (
        "/opt/builder/files/t/other",
        "/site/vllm/c.json  has other content",
        "/opt/builder/files/a.py  is reached through a link",
    ):
        assert text in done.stderr
    assert serve(image).returncode == 4


def test_a_wheels_files_are_compared_by_its_record(image: Path) -> None:
    files = {
        "pkg/__init__.py": b"",
        "pkg/data.bin": b"\0\1",
        "../bin/pkg": b"#!x\n",
        "pkg-1.dist-info/METADATA": b"Name: pkg\n",
    }
    rows = []
    for name, data in files.items():
        path = image / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        rows.append(f"{name},{digest_column(data)},{len(data)}\n")
    listed = "".join([*rows, "pkg-1.dist-info/RECORD,,\n"]).encode()
    (image / "site/pkg-1.dist-info/RECORD").write_bytes(listed)
    installed = {
        "name": "pkg", "version": "1", "dist_info": "pkg-1.dist-info", "record": sha256(listed),
        "removed": ["site/pkg/old.py", "site/pkg-0.dist-info"],
    }  # fmt: skip
    write_record(image, record_of(image) | {"installed": [installed]})
    done = serve(image, "verify")
    assert done.returncode == 0, done.stderr
    assert "pkg 1, every file by its RECORD" in done.stdout
    (image / "site/pkg/data.bin").write_bytes(b"\0\2")
    (image / "site/pkg/old.py").write_bytes(b"")
    (image / "bin/pkg").unlink()
    wrong = serve(image, "verify").stderr
    for text in (
        "pkg/data.bin  has other content than the wheel's",
        "/site/pkg/old.py  should have been deleted",
        "../bin/pkg",
    ):
        assert text in wrong
    assert serve(image).returncode == 4
    (image / "site/pkg-1.dist-info/RECORD").write_bytes(listed + b"x,,\n")
    assert "pkg-1.dist-info/RECORD  has other content" in serve(image, "verify").stderr


def digest_column(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def test_flags_alone_are_for_the_chosen_profile(image: Path) -> None:
    """As under Kubernetes: the profile in `env:`, flags in `args:`. Nothing chosen: the base's own entrypoint."""
    model = str(image / "model")
    assert argv(serve(image, "--port", "9000", BUILDER_PROFILE="other")) == ["serve", model, "--port", "9000"]
    assert argv(serve(image, "--port", "9000")) == ["serve", "--port", "9000"]
    assert argv(serve(image, "smoke", BUILDER_PROFILE="other")) == ["serve", model, *PROFILE]
    unknown = serve(image, "--port", "9000", BUILDER_PROFILE="none")
    assert unknown.returncode == 2
    assert "there is no profile 'none'" in unknown.stderr


def test_health_asks_the_server_in_the_container(image: Path) -> None:
    statuses = iter((200, 503))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(next(statuses) if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = str(server.server_port)
        healthy = serve(image, "health", "--port", port, http_proxy="http://127.0.0.1:9")
        assert (healthy.returncode, healthy.stdout) == (0, "status 200\n"), healthy.stderr
        assert serve(image, "health", "--port", port).returncode == 1
        server.shutdown()
    closed = serve(image, "health", "--port", port)
    assert closed.returncode == 1
    assert "no response" in closed.stdout
    assert serve(image, "health", "--prot", port).returncode == 2


@pytest.mark.parametrize(
    "given",
    [["--max-num-seqs", "2"], ["--max-num-seqs=2"], ["--max_num_seqs", "2"]],
)
def test_the_callers_flags_win(image: Path, given: list[str]) -> None:
    found = argv(serve(image, "smoke", "--port", "9000", *given))
    assert found == ["serve", str(image / "model"), "--quantization", "fp8", "--enable-chunked-prefill", "--block-size=16", "--port", "9000", *given]  # fmt: skip


def test_a_switch_is_taken_back_by_its_negation(image: Path) -> None:
    found = argv(serve(image, "smoke", "--no-enable-chunked-prefill"))
    assert "--enable-chunked-prefill" not in found
    assert found[-1] == "--no-enable-chunked-prefill"


def test_extra_arguments_are_split_as_a_shell_does(image: Path) -> None:
    found = argv(serve(image, "other", "--seed", "1", BUILDER_EXTRA_ARGS="--chat-template 'a b' --seed 2"))
    assert found == ["serve", str(image / "model"), "--chat-template", "a b", "--seed", "2", "--seed", "1"]
    broken = serve(image, "other", BUILDER_EXTRA_ARGS="'")
    assert broken.returncode == 2
    assert "BUILDER_EXTRA_ARGS" in broken.stderr


@pytest.mark.parametrize(
    "arguments",
    [["Qwen/Qwen3-8B", "--port", "9000"], ["--help"], ["/models/x"], ["$(id)", "{{x}}", "a\nb", "--", "-x"]],
)
def test_anything_else_reaches_the_bases_own_entrypoint_unchanged(image: Path, arguments: list[str]) -> None:
    assert argv(serve(image, *arguments)) == ["serve", *arguments]


def test_a_near_miss_is_an_error_and_not_a_model(image: Path) -> None:
    done = serve(image, "smokee")
    assert done.returncode == 2
    assert "did you mean smoke" in done.stderr


def test_print_shows_the_command_and_starts_nothing(image: Path) -> None:
    shutil.rmtree(image / "model")
    for arguments in (["smoke", "--print"], ["--print", "smoke"], ["--print"]):
        done = serve(image, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(str(image / "vllm"))
    assert json.loads(serve(image, "smoke", "--print", "--json").stdout)[1:] == [
        "serve",
        str(image / "model"),
        *PROFILE,
    ]


def test_profiles_and_show(image: Path) -> None:
    listed = serve(image, "profiles").stdout
    assert "* smoke  fit" in listed
    assert json.loads(serve(image, "show", "smoke").stdout)["argv"] == PROFILE
    assert serve(image, "show", "none").returncode == 2


def test_verify_says_what_the_overlays_are(image: Path) -> None:
    said = serve(image, "verify").stdout.splitlines()
    assert said[:3] == [
        "test: 2 files are as recorded",
        "  overlay o/r#1  title: T - drop when: merged, and out",
        "  overlay overlays/two.diff",
    ]
    assert json.loads(serve(image, "verify", "--json").stdout)["overlays"] == [
        {"id": "o/r#1", "digest": "d" * 64, "title": "T", "drop_when": "merged,\n and out"},
        {"id": "overlays/two.diff", "digest": "e" * 64},
    ]


def test_verify_names_what_is_wrong(image: Path) -> None:
    assert serve(image, "verify").returncode == 0
    (image / "site/vllm/a.py").write_bytes(b"stock\n")
    (image / "site/vllm/gone.py").write_bytes(b"x")
    (image / "site/vllm/__pycache__").mkdir()
    (image / "site/vllm/__pycache__/a.cpython-312.pyc").write_bytes(b"x")
    done = serve(image, "verify")
    assert done.returncode == 4
    assert "the overlay is not in it" in done.stderr
    assert "should have been deleted" in done.stderr
    assert "stale bytecode" in done.stderr
    document = json.loads(serve(image, "verify", "--json").stdout)
    assert not document["ok"]
    assert len(document["problems"]) == 3


def test_verify_says_what_it_can_and_cannot_see(image: Path) -> None:
    bound = json.loads(serve(image, "verify", "--json").stdout)
    assert bound["record_bound"] is True
    assert any("ENTRYPOINT" in text for text in bound["checked"])
    assert any("the base's own files" in text for text in bound["not_checked"])
    alone = json.loads(unbound(image, "verify", "--json").stdout)
    assert alone["record_bound"] is False
    assert any("without the --record" in text for text in alone["not_checked"])
    assert "not checked  whether this is the image's record" in unbound(image, "verify").stdout


def _linked_folder(image: Path) -> None:
    (image / "opt/builder").rename(image / "opt/other")
    (image / "opt/builder").symlink_to("other")


def _linked_file(image: Path) -> None:
    path = image / "site/vllm/a.py"
    path.rename(image / "same")
    path.symlink_to(image / "same")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda image: (image / "opt/builder/sitecustomize.py").write_text(""), "/opt/builder/sitecustomize.py"),
        (lambda image: (image / "opt/builder/json").mkdir(), "/opt/builder/json"),
        (lambda image: (image / "opt/builder/serve").chmod(0o4755), "set-user-id"),
        (lambda image: (image / "opt/builder/record.json").chmod(0o1644), "record.json"),
        (_linked_folder, "is a link"),
        (_linked_file, "reached through a link"),
    ],
)
def test_entries_that_the_record_does_not_know_are_refused(
    image: Path, change: Callable[[Path], object], named: str
) -> None:
    change(image)
    for arguments in (("verify",), ("smoke",)):
        done = serve(image, *arguments)
        assert done.returncode == 4, done.stdout
        assert named in done.stderr
        assert done.stdout == ""


def test_nothing_runs_on_the_layers_word_alone(image: Path) -> None:
    """A record with another entrypoint of the base: refused when the config names the digest, and when nobody does."""
    binding = f"--record=sha256:{sha256((image / 'opt/builder/record.json').read_bytes())}"
    record = record_of(image)
    record["base"]["entrypoint"] = ["/bin/sh", "-c", "echo taken over"]
    write_record(image, record)
    for arguments in (("smoke",), ("anything", "else"), ("profiles",), ("verify",), ()):
        done = unbound(image, binding, *arguments)
        assert done.returncode == 4
        assert "not the one that the image's config names" in done.stderr
    for arguments in (("smoke",), ("anything", "else"), ()):
        done = unbound(image, *arguments)
        assert done.returncode == 4
        assert "only the layer vouches" in done.stderr
        assert "taken over" not in done.stdout
    assert unbound(image, "profiles").returncode == 0
    assert unbound(image, "smoke", "--print").returncode == 0
    assert unbound(image, "--record=sha256:abc", "smoke").returncode == 2
    assert unbound(image, "--record=" + "0" * 64, "smoke").returncode == 2


def test_a_later_record_flag_is_the_servers_own(image: Path) -> None:
    assert argv(serve(image, "other", "--record=x"))[-1] == "--record=x"


def test_a_wrong_file_stops_the_server(image: Path) -> None:
    (image / "site/vllm/a.py").write_bytes(b"other\n")
    done = serve(image, "smoke")
    assert done.returncode == 4
    assert done.stdout == ""
    assert "vllm/a.py" in done.stderr


def test_no_model_no_server(image: Path) -> None:
    shutil.rmtree(image / "model")
    done = serve(image, "smoke")
    assert done.returncode == 2
    assert "docker run -v" in done.stderr


RULES = {
    "opt_ins": ["lm_head", "embed_tokens", "embeddings"],
    "tensors": {"lm_head.weight_scale_inv": {"dtype": "BF16", "shape": [2, 1]}},
}
GOOD = {
    "quantization_config": {"lm_head": True, "embed_tokens": True, "embeddings": True, "modules_to_not_convert": ["x"]}
}


def write_checkpoint(model: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    (model / "config.json").write_text(json.dumps(config))
    header = json.dumps(tensors).encode()
    (model / "outside.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    weights = {"weight_map": dict.fromkeys(tensors, "outside.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(weights))


def test_a_checkpoint_with_its_opt_ins_and_scales_is_served(image: Path) -> None:
    record = record_of(image)
    record["checkpoint"] = {"requires": RULES}
    write_record(image, record)
    scale = {"lm_head.weight_scale_inv": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]}}
    write_checkpoint(image / "model", GOOD, scale)
    assert serve(image, "smoke").returncode == 0

    def refused(config: dict[str, Any], tensors: dict[str, Any]) -> str:
        write_checkpoint(image / "model", config, tensors)
        done = serve(image, "smoke")
        assert done.returncode == 4
        assert done.stdout == ""
        assert serve(image, "smoke", BUILDER_CHECKPOINT_CHECK="off").returncode == 0
        return done.stderr

    quantization = GOOD["quantization_config"]
    for name in RULES["opt_ins"]:
        missing = {"quantization_config": {key: value for key, value in quantization.items() if key != name}}
        assert f"quantization_config.{name} is not true" in refused(missing, scale)
    kept = {"quantization_config": {**quantization, "modules_to_not_convert": ["lm_head"]}}
    assert "modules_to_not_convert lists lm_head" in refused(kept, scale)
    renamed = {"quantization_config": {**quantization, "modules_to_not_convert": ["language_model.lm_head"]}}
    assert "modules_to_not_convert lists language_model.lm_head" in refused(renamed, scale)
    odds: list[Any] = [5, [], {**GOOD["quantization_config"], "modules_to_not_convert": 5}]
    for odd in odds:
        message = refused({"quantization_config": odd} if odd else [], scale)  # type: ignore[arg-type]
        assert "is not what a checkpoint has" in message
        assert "Traceback" not in message
    assert "is not in the checkpoint" in refused(GOOD, {"other": {}})
    wrong = {"lm_head.weight_scale_inv": {"dtype": "F32", "shape": [2, 1]}}
    assert "is F32 [2, 1], not BF16 [2, 1]" in refused(GOOD, wrong)
    (image / "model/outside.safetensors").write_bytes(b"\xff" * 20)
    assert "no safetensors header" in serve(image, "smoke").stderr


def test_the_locked_files_are_compared(image: Path) -> None:
    (image / "model/shard.safetensors").write_bytes(b"x" * 100)
    lock_model(image)
    assert serve(image, "smoke").returncode == 0
    (image / "model/shard.safetensors").write_bytes(b"y" * 100)
    assert serve(image, "smoke").returncode == 0
    assert "other content" in serve(image, "smoke", BUILDER_CHECKPOINT_CHECK="full").stderr
    (image / "model/shard.safetensors").write_bytes(b"y" * 99)
    assert "has 99 bytes, locked were 100" in serve(image, "smoke").stderr
    assert serve(image, "smoke", BUILDER_CHECKPOINT_CHECK="loud").returncode == 2


def lock_model(image: Path, *, files: bool = True) -> None:
    """Put the model as it is now into the record, as `builder lock` and `build` do; its `files` as for a path or a
    repository, none as for a recipe with the digest alone."""
    found = digest_directory(image / "model", context=Context(), cache=False)
    record = record_of(image)
    record["checkpoint"] |= {"digest": found.digest}
    if files:
        record["checkpoint"]["files"] = [
            {"path": path, "sha256": digest, "size": size} for path, digest, size in found.files
        ]
    write_record(image, record)


MODEL = {"tokenizer.json": b"{}", "model.safetensors": b"x" * 100, "sub/chat.jinja": b"j"}


@pytest.fixture
def locked(image: Path) -> Path:
    """The image with a model of some files that is locked."""
    for name, data in MODEL.items():
        (image / "model" / name).parent.mkdir(exist_ok=True)
        (image / "model" / name).write_bytes(data)
    lock_model(image)
    return image


@pytest.mark.parametrize("how", ["quick", "full"])
def test_a_name_too_many_or_too_few_is_another_checkpoint(locked: Path, how: str) -> None:
    model = locked / "model"
    for name in ("README.md", "LICENSE", ".cache/x", "__pycache__/m.pyc", "sub/.hidden", "empty/.keep"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not served")
    (model / "sub/loop").symlink_to("..")
    assert serve(locked, "smoke", BUILDER_CHECKPOINT_CHECK=how).returncode == 0
    for name in ("chat_template.jinja", "model-2.safetensors", "sub/modeling.py", "notes.txt"):
        (model / name).write_bytes(b"")
        done = serve(locked, "smoke", BUILDER_CHECKPOINT_CHECK=how)
        assert (done.returncode, done.stdout) == (4, "")
        assert f"{name}  is not in the locked checkpoint" in done.stderr
        (model / name).unlink()
    (model / "sub/chat.jinja").unlink()
    done = serve(locked, "smoke", BUILDER_CHECKPOINT_CHECK=how)
    assert done.returncode == 4
    assert "sub/chat.jinja  is missing" in done.stderr


def test_a_digest_without_files_is_compared_by_full(locked: Path) -> None:
    """A recipe with `checkpoint: {digest: ...}`: names and sizes are not known, all the bytes are."""
    record = record_of(locked)
    del record["checkpoint"]["files"]
    write_record(locked, record)
    model = locked / "model"

    def refused() -> bool:
        assert serve(locked, "smoke").returncode == 0
        done = serve(locked, "smoke", BUILDER_CHECKPOINT_CHECK="full")
        assert done.returncode in (0, 4), done.stderr
        return f"locked was {record['checkpoint']['digest']}" in done.stderr

    assert not refused()
    (model / "config.json").write_text("{ }")
    assert refused()
    (model / "config.json").write_text("{}")
    (model / "more.txt").write_text("")
    assert refused()
    (model / "more.txt").unlink()
    assert not refused()
    shutil.copytree(model, locked / "other")
    shutil.rmtree(model)
    (locked / "other").rename(model)
    (model / "tokenizer.json").rename(model / "tokenizer2.json")
    assert refused()


def listen(path: Path) -> None:
    os.chdir(path.parent)  # A socket's path has 107 bytes at most.
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)


@pytest.mark.parametrize("how", ["quick", "full"])
@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    "place",
    [Path.mkdir, os.mkfifo, listen, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path)],
)
def test_what_is_no_file_is_a_problem_and_is_not_waited_for(
    locked: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Path], object], name: str, how: str
) -> None:
    monkeypatch.chdir(locked)
    path = locked / "model" / name
    if name.endswith("index.json"):
        path.write_text('{"weight_map": {}}')
        lock_model(locked)
        record = record_of(locked)
        record["checkpoint"]["requires"] = {"tensors": {"x": {"dtype": "BF16", "shape": [1]}}}
        write_record(locked, record)
    path.unlink()
    place(path)
    done = serve(locked, "smoke", BUILDER_CHECKPOINT_CHECK=how)
    assert done.returncode == (2 if name == "config.json" else 4), done.stderr
    assert "Traceback" not in done.stderr
    assert name in done.stderr
    # A size that fits shows nothing.
    record = record_of(locked)
    for entry in record["checkpoint"]["files"]:
        entry["size"] = path.lstat().st_size if entry["path"] == name else entry["size"]
    write_record(locked, record)
    assert serve(locked, "smoke", BUILDER_CHECKPOINT_CHECK=how).returncode == done.returncode


@pytest.mark.parametrize("how", ["quick", "full"])
def test_what_may_not_be_read_is_a_problem(locked: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """As for a user who is not root. A folder that nobody locked and the server may not see keeps no one from a start."""
    model = locked / "model"
    listdir, opened = os.listdir, Path.open

    def refusing(path: str, *mode: Any, **options: Any) -> Any:
        if path.endswith(("tokenizer.json", "lost+found")):
            raise PermissionError(13, "Permission denied", path)
        return opened(Path(path), *mode, **options) if mode or options else listdir(path)

    monkeypatch.setattr(SERVE, "open", refusing, raising=False)
    with pytest.raises(SERVE.Refused) as caught:
        SERVE.check_checkpoint(record_of(locked), str(model), how)
    assert caught.value.code == 4
    assert caught.value.details == [("tokenizer.json", "cannot be read: Permission denied")]
    monkeypatch.undo()
    (model / "lost+found").mkdir()
    monkeypatch.setattr("os.listdir", refusing)
    if how == "quick":
        SERVE.check_checkpoint(record_of(locked), str(model), how)
    else:
        with pytest.raises(SERVE.Refused) as caught:
            SERVE.check_checkpoint(record_of(locked), str(model), how)
        assert caught.value.details == [("lost+found", "cannot be read: Permission denied")]


def test_a_folder_is_checked_whatever_its_spelling(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (locked / "model/more.safetensors").write_bytes(b"")
    monkeypatch.chdir(locked)
    for spelling in ("model", "./model", "model/", str(locked / "model"), "../" + locked.name + "/model"):
        assert serve(locked, "smoke", BUILDER_MODEL=spelling).returncode == 4, spelling
    (locked / "model/more.safetensors").unlink()
    for spelling in ("model", "./model", "Qwen/Qwen3-8B"):
        assert argv(serve(locked, "smoke", BUILDER_MODEL=spelling))[1] == spelling


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"schema": 2}'])
def test_a_damaged_record_is_refused(image: Path, content: str | None) -> None:
    path = image / "opt/builder/record.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    done = serve(image, "smoke")
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
