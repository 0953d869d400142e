"""Config, index and headers with anything in them: `check` and `quantize` end with a reason, and nothing wrong is made."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.checkpoint.header import HeaderError, read_header
from builder.checkpoint.quantize.run import quantize
from builder.cli.app import run
from builder.util.context import Context
from tests.support.checkpoints import EMBED, HEAD, make_checkpoint, make_qwen, qwen_config, qwen_shards, write_shard

INDEX = "model.safetensors.index.json"
DEEP: Any = 1
for _ in range(400):
    DEEP = [DEEP]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mutations")
    quantize(make_qwen(folder / "whole"), folder / "fp8", context=Context(), copy=True)
    before = os.environ.get("BUILDER_CACHE_DIR")
    os.environ["BUILDER_CACHE_DIR"] = str(folder / "cache")
    yield folder
    os.environ.pop("BUILDER_CACHE_DIR")
    if before is not None:
        os.environ["BUILDER_CACHE_DIR"] = before


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command in this process, both written as a UTF-8 terminal would."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*arguments, "--json"])
    found = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return code, found[0], found[1]


def judge(place: Path, folder: Path) -> None:
    """All three commands on a mutated checkpoint; what `quantize` makes, if anything, is sound."""
    dest = place / "dest"
    shutil.rmtree(dest, ignore_errors=True)
    for arguments in (
        ("check", str(folder)),
        ("check", str(place / "fp8"), "--error-against", str(folder)),
        ("check", str(folder), "--error-against", str(place / "whole")),
        ("quantize", str(folder), str(dest)),
    ):
        code, out, err = call("checkpoint", *arguments)
        assert code in (0, 2, 4), err
        json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
        assert "Traceback" not in err and "Warning" not in err, err
    assert not (place / ".dest.partial").exists()
    assert dest.exists() is (code == 0)
    if dest.exists():
        assert call("checkpoint", "check", str(dest))[0] == 0


def paths(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if len(here) > 6:
        return [here]
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else []
    return [here, *(path for key in keys for path in paths(document[key], (*here, key)))]


values = st.one_of(
    st.sampled_from([
        None, True, False, 0, -1, 1, 127, 129, 2**63, -(2**70), 10**400, 1e308, 0.5, "", "fp8", "F8_E4M3", "BF16", "F4",
        "lm_head", "\ud800", "x\udfff", "../x.safetensors", ".x.safetensors", "LICENSE.safetensors", "config.json",
        [], {}, [[]], [{}], [[1], {"a": 2}, None], {"\ud800": 1}, [128], [0, 128], [1, 1], [4096, 4096], [128, True], [5000, 1],
        ["language_model.model.embed_tokens", ["lm_head"], 5], DEEP, {"a": DEEP},
    ]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
)  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> Callable[[Any], Any]:
    """One to three places of a JSON document: replaced, dropped, renamed or doubled."""
    steps = [(draw(st.sampled_from(["set", "set", "drop", "rename"])), draw(st.floats(0, 0.999)), json.dumps(draw(values)),
              draw(st.sampled_from(["\ud800", "", "lm_head", f"{HEAD}_scale_inv", "__metadata__", "\n"])))
             for _ in range(draw(st.integers(1, 3)))]  # fmt: skip

    def change(document: Any) -> Any:
        for kind, where, value, name in steps:
            there = paths(document) if isinstance(document, dict | list) else [()]
            path = there[int(where * len(there))]
            if not path:
                if kind == "set":
                    document = json.loads(value)
                continue
            holder = document
            for key in path[:-1]:
                holder = holder[key]
            if kind == "set":
                holder[path[-1]] = json.loads(value)
            else:
                old = holder.pop(path[-1])
                if kind == "rename" and isinstance(holder, dict):
                    holder[name] = old
        return document

    return change


def changed_header(raw: bytes, change: Callable[[Any], Any]) -> bytes:
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(change(json.loads(raw[8 : 8 + length]))).encode()
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


def mutated(place: Path, source: str, file: str, change: Callable[[bytes], bytes]) -> Path:
    folder = place / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / source, folder)
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    return folder


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes(), st.sampled_from(["config.json", INDEX]), st.sampled_from(["whole", "fp8"]))
def test_a_config_or_an_index_with_anything_in_it(
    place: Path, change: Callable[[Any], Any], file: str, source: str
) -> None:
    judge(place, mutated(place, source, file, lambda raw: json.dumps(change(json.loads(raw))).encode()))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes(), st.sampled_from(["outside.safetensors", "layers-0.safetensors"]), st.sampled_from(["whole", "fp8"]))
def test_a_header_with_anything_in_it(place: Path, change: Callable[[Any], Any], file: str, source: str) -> None:
    judge(place, mutated(place, source, file, lambda raw: changed_header(raw, change)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.floats(0, 0.999),
    st.binary(min_size=1, max_size=4),
    st.sampled_from(["config.json", INDEX, "outside.safetensors"]),
)
def test_bytes_that_are_not_what_they_were(place: Path, where: float, found: bytes, file: str) -> None:
    def change(raw: bytes) -> bytes:
        begin = int(where * min(len(raw), 700))
        return raw[:begin] + found + raw[begin + len(found) :]

    judge(place, mutated(place, "whole", file, change))


def config_with(**found: Any) -> dict[str, Any]:
    config = qwen_config()
    config["quantization_config"] |= found
    return config


@pytest.mark.parametrize(
    "config",
    [
        config_with(modules_to_not_convert=5, ignored_layers="lm_head"),
        config_with(modules_to_not_convert=[["lm_head"], {"a": 1}, None]),
        config_with(weight_block_size=[128, 128.0]), config_with(weight_block_size=[4096, 1]), config_with(note=DEEP),
        {**qwen_config(), "text_config": [1]}, {**qwen_config(), "x": "\ud800"}, {**qwen_config(), "\ud800": 1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["whole", "fp8"])
def test_odd_configs(place: Path, config: Any, source: str) -> None:
    judge(place, mutated(place, source, "config.json", lambda raw: json.dumps(config).encode()))


def test_pipes_folders_and_hidden_shards_in_the_place_of_files(place: Path) -> None:
    for file in ("config.json", INDEX, "outside.safetensors", "layers-0.safetensors", "tokenizer.json", "LICENSE"):
        for kind in (os.mkfifo, os.mkdir):
            folder = mutated(place, "whole", file, bytes)
            (folder / file).unlink()
            kind(folder / file)
            judge(place, folder)
    for name in (".hidden.safetensors", "LICENSE.safetensors"):
        folder = mutated(place, "whole", INDEX, bytes)
        (folder / INDEX).write_text((folder / INDEX).read_text().replace("outside.safetensors", name))
        (folder / "outside.safetensors").rename(folder / name)
        code, out, _ = call("checkpoint", "check", str(folder))
        assert code == 2
        assert "not a shard beside it" in out
        judge(place, folder)


def test_tables_without_rows_or_columns_and_damaged_values(place: Path) -> None:
    for shape in ((0, 320), (500, 0), (0, 0)):
        shards = qwen_shards()
        shards["outside.safetensors"] |= {
            HEAD: np.zeros(shape, np.uint8),
            f"{HEAD}_scale_inv": np.zeros((-(-shape[0] // 128), -(-shape[1] // 128)), np.uint16),
        }
        shutil.rmtree(place / "mutated", ignore_errors=True)
        config = config_with(lm_head=True, modules_to_not_convert=[])
        folder = make_checkpoint(place / "mutated", shards, config)
        judge(place, folder)
        shards["outside.safetensors"][HEAD] = np.zeros(shape, np.uint16)
        shards["outside.safetensors"].pop(f"{HEAD}_scale_inv")
        shutil.rmtree(place / "empty", ignore_errors=True)
        code, out, err = call(
            "checkpoint", "check", str(folder), "--error-against", str(make_checkpoint(place / "empty", shards))
        )
        assert code == 0, err
        assert json.loads(out)["errors"][0]["relative_rms_error"] == 0
    for value, scale in ((0x7F, 0x3F80), (1, 0x7F80), (0, 0x7FC0)):
        folder = mutated(place, "fp8", "config.json", bytes)
        header = read_header(folder / "outside.safetensors")
        raw = bytearray((folder / "outside.safetensors").read_bytes())
        raw[header.data_start + header.tensors[EMBED].begin + 5] = value
        begin = header.data_start + header.tensors[f"{EMBED}_scale_inv"].begin
        raw[begin : begin + 2] = scale.to_bytes(2, "little")
        (folder / "outside.safetensors").write_bytes(raw)
        code, out, err = call("checkpoint", "check", str(folder), "--error-against", str(place / "whole"))
        assert code == 4, err
        assert "embed_tokens.weight has NaN or infinity" in json.loads(out)["error"]["message"]
        assert "Warning" not in err


def test_a_header_with_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "m.safetensors", {"abcdef": np.zeros((1,), np.uint8)})
    raw = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(raw.replace(b"abcdef", b"\\ud800"))
    with pytest.raises(HeaderError, match="unsound"):
        read_header(tmp_path / "m.safetensors")
