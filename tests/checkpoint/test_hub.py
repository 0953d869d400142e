"""The digest of a repository on the Hub equals that of its files on disk, from metadata alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.checkpoint.digest import digest_directory
from builder.console import Console
from tests.support.cli import Ran, builder
from tests.support.hub import Hub, serving

BIG = bytes(range(256)) * 40_000
FILES = {
    "config.json": b'{"a": 1}',
    "layers-0.safetensors": BIG,
    "layers-10.safetensors": BIG[::-1],
    "tokenizer.json": b"lfs though small",
    "sub/vocab.txt": "žluťoučký".encode(),
    "sub/deep/a b.json": b"{}",
    "README.md": b"# card",
    "LICENSE": b"x",
    ".gitattributes": b"*.safetensors filter=lfs",
    "empty.txt": b"",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as running:
        yield running


def write(folder: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return digest_directory(folder, console=Console(), cache=False).digest


def digest(hub: Hub, name: str, tmp_path: Path, **env: str) -> Ran:
    settings = {
        "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*",
        "HF_HUB_DISABLE_TELEMETRY": "1", **env,
    }  # fmt: skip
    return builder("checkpoint", "digest", name, "--json", cwd=tmp_path, env=settings)


def test_the_same_digest_from_metadata_and_from_disk(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit(FILES)
    local = write(tmp_path / "local", FILES)
    for name in ("owner/model", "owner/model@main", f"owner/model@{commit}"):
        hub.sent = 0
        done = digest(hub, f"hf:{name}", tmp_path)
        assert done.code == 0, done.err
        assert done.document["digest"] == local
        assert done.document["revision"] == commit
        assert hub.sent < 20_000 < len(BIG)
    fetched = {path.rsplit("/", 1)[-1] for path in hub.seen if "/resolve/" in path}
    assert fetched == {"config.json", "vocab.txt", "a b.json", "empty.txt"}
    assert sum("/tree/" in path for path in hub.seen) >= 3 * 4
    shown = builder("checkpoint", "digest", str(tmp_path / "local"), "-v", cwd=tmp_path)
    assert shown.out.strip() == local
    assert "layers-10.safetensors (10,240,000 bytes)" in shown.err


def test_a_file_that_is_renamed_and_one_that_enters_lfs(hub: Hub, tmp_path: Path) -> None:
    hub.commit(FILES, "one")
    renamed = {
        ("layers-1.safetensors" if name == "layers-10.safetensors" else name): data for name, data in FILES.items()
    }
    hub.commit(renamed, "two")
    first, second = (digest(hub, f"hf:owner/model@{name}", tmp_path).document["digest"] for name in ("one", "two"))
    assert first == write(tmp_path / "one", FILES)
    assert second == write(tmp_path / "two", renamed)
    assert first != second
    hub.lfs = ("",)
    assert digest(hub, "hf:owner/model@one", tmp_path).document["digest"] == first


def test_a_revision_that_moves_is_resolved_once(hub: Hub, tmp_path: Path) -> None:
    hub.commit({**FILES, "config.json": b"later"}, "next")
    commit = hub.commit(FILES)
    hub.moves_to = hub.branches["next"]
    done = digest(hub, "hf:owner/model@main", tmp_path)
    assert done.document["digest"] == write(tmp_path / "local", FILES)
    assert done.document["revision"] == commit
    assert digest(hub, "hf:owner/model@main", tmp_path).document["revision"] == hub.branches["next"]


def test_a_repository_that_was_renamed_and_one_that_needs_a_token(hub: Hub, tmp_path: Path) -> None:
    hub.commit(FILES)
    hub.old_names = {"owner/before"}
    local = write(tmp_path / "local", FILES)
    assert digest(hub, "hf:owner/before", tmp_path).document["digest"] == local
    hub.token = "hf_secret"
    assert digest(hub, "hf:owner/model", tmp_path, HF_TOKEN="hf_secret").document["digest"] == local
    refused = digest(hub, "hf:owner/model", tmp_path, HF_TOKEN="hf_wrong")
    assert refused.code == 5
    assert "hf_wrong" not in refused.out + refused.err


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("hf:owner/nothing", 5, "refuses owner/nothing"),
        ("hf:owner/model@nowhere", 5, "refuses owner/model"),
        ("hf:no repo", 2, "not a repository's name"),
        ("hf:owner/model@empty", 2, "has no checkpoint files"),
    ],
)
def test_what_is_not_there(hub: Hub, tmp_path: Path, name: str, code: int, message: str) -> None:
    hub.commit(FILES)
    hub.commit({"README.md": b"x"}, "empty")
    done = digest(hub, name, tmp_path)
    assert done.code == code, done.err
    assert message in done.document["error"]["message"]


def test_a_mirror_that_sends_other_content_is_caught(hub: Hub, tmp_path: Path) -> None:
    hub.commit(FILES)
    hub.damaged = {"config.json"}
    done = digest(hub, "hf:owner/model", tmp_path)
    assert done.code == 4
    assert "gave another config.json" in done.document["error"]["message"]


def test_no_hub_at_all(hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    assert digest(hub, "hf:owner/model", tmp_path).code == 5
