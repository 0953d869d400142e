"""What was read of a package is kept by the digests of its files: the same findings, and nothing stale or damaged."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from builder.util.files import cache_dir
from builder.vllm.lint.kept import read_package
from builder.vllm.reader import source as reader
from builder.vllm.reader.source import Source, from_files
from tests.support.wheels import python_files

ARGUMENTS = "vllm/engine/arg_utils.py"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path))


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return python_files("0.20.0")


def source(files: dict[str, bytes]) -> Source:
    return from_files(files, version="0.20.0")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that were parsed so far."""
    sizes: list[int] = []
    parse = reader._parse

    def counting(data: bytes) -> ast.Module | None:
        sizes.append(len(data))
        return parse(data)

    monkeypatch.setattr(reader, "_parse", counting)
    return sizes


def test_the_same_files_are_parsed_once(files: dict[str, bytes], parsed: list[int]) -> None:
    first = read_package(source(files))
    parsed.clear()
    second = read_package(source(files))
    assert parsed == []
    assert repr(second.catalog) == repr(first.catalog)
    assert second.registries == first.registries
    assert len(second.catalog.flags) > 100


def test_another_file_is_read_again(files: dict[str, bytes]) -> None:
    before = read_package(source(files))
    data = files[ARGUMENTS].replace(b'"--max-model-len"', b'"--longest-model-len"')
    assert data != files[ARGUMENTS]
    after = read_package(source({**files, ARGUMENTS: data}))
    assert "max-model-len" in before.catalog.flags
    assert "longest-model-len" in after.catalog.flags
    # A file that only other files lead to counts as much.
    config = next(path for path, text in files.items() if path.startswith("vllm/config/") and b"block_size" in text)
    moved = read_package(source({**files, config: b"\n\n" + files[config]}))
    assert repr(moved.catalog) != repr(before.catalog)


def test_what_is_damaged_is_read_again(files: dict[str, bytes], parsed: list[int]) -> None:
    first = read_package(source(files))
    (kept,) = cache_dir("lint").iterdir()
    data = kept.read_bytes()
    for damaged in (b"", data[:-1], data.replace(b"max-model-len", b"min-model-len"), b"not a digest\n{}"):
        kept.write_bytes(damaged)
        parsed.clear()
        assert repr(read_package(source(files)).catalog) == repr(first.catalog)
        assert parsed
    assert kept.read_bytes() == data
