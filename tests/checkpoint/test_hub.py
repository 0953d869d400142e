"""The digest of a repository on the Hub equals that of its files on disk, from metadata alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.checkpoint.digest import digest_directory
from builder.checkpoint.hub import digest_hub, hub_commit
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import BuilderError
from builder.vllm.fit.headers import read_hub
from tests.support.cli import Ran, builder, builder_peak
from tests.support.clock import Owned
from tests.support.hub import FAULTS, Hub, serving

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
    return digest_directory(folder, context=Context(), cache=False).digest


def settings(hub: Hub, tmp_path: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


def digest(hub: Hub, name: str, tmp_path: Path, **env: str) -> Ran:
    return builder("checkpoint", "digest", name, "--json", cwd=tmp_path, env=settings(hub, tmp_path) | env)


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


def test_no_hub_at_all_and_an_address_that_is_none(hub: Hub, tmp_path: Path) -> None:
    for url, code in (("http://127.0.0.1:9", 5), ("http://[::1", 2), ("huggingface.co", 2), ("http://a:b", 2)):
        hub.url = url
        done = digest(hub, "hf:owner/model", tmp_path)
        assert done.code == code, done.err
        assert done.document["error"]["hint"]


# Of the faults that pass, and of those that only a small file's own hash can tell from content.
PASSING = {"503-once", "hang-up-once"}
OTHER_CONTENT = {"html", "no-json", "surrogate", "other-shape", "empty"}
SECRET = "hf_Zm9vYmFyYmF6"


@pytest.fixture
def owned() -> Owned:
    return Owned()


@pytest.fixture
def spoiled(hub: Hub, owned: Owned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub that is asked from this process, with a token. The deadline passes when the Hub is slow, and never before."""
    hub.commit(FILES)
    hub.token = SECRET
    hub.slow = owned.clock.ring
    for name, value in {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": SECRET, "NO_PROXY": "*",
        "BUILDER_CACHE_DIR": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return hub


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["info", "tree/0", "tree/3", "tree/9", "file/config.json"])
def test_whatever_the_hub_does_wherever_it_ends_in_time_and_well_or_with_its_reason(
    spoiled: Hub, owned: Owned, tmp_path: Path, capfd: pytest.CaptureFixture[str], place: str, fault: str
) -> None:
    spoiled.faults = {place: fault}
    context = Context(Console(verbosity=2), limits=owned.limits)
    try:
        found = digest_hub("owner/model", None, context=context)
    except BuilderError as error:
        said = f"{error.message} {error.details} {error.hint}"
        assert error.exit_code == (4 if fault in OTHER_CONTENT and place.startswith("file/") else 5), said
        assert fault not in PASSING
        assert error.hint
        assert SECRET not in said
    else:
        assert fault in PASSING
        assert found.digest == write(tmp_path / "local", FILES)
    assert owned.clock.rung == (fault in ("stall", "trickle", "trickle-headers"))
    assert len(owned.clock.pauses) <= 3
    assert all(pause <= context.limits.longest_wait for pause in owned.clock.pauses)
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err


@pytest.mark.parametrize("fault", FAULTS)
def test_drift_and_profile_fit_have_the_same_limits(spoiled: Hub, owned: Owned, fault: str) -> None:
    spoiled.faults = {"info": fault}
    if fault in PASSING:
        assert hub_commit("owner/model", None, context=owned.context) in spoiled.commits
    else:
        with pytest.raises(BuilderError) as caught:
            hub_commit("owner/model", None, context=owned.context)
        assert caught.value.exit_code == 5
    spoiled.faults = {"file/": fault}
    with pytest.raises(BuilderError) as caught:
        read_hub("owner/model", None, context=owned.context)
    assert caught.value.exit_code in (2, 5)


def test_memory_stays_below_100_mb_for_a_repository_of_any_size(hub: Hub, tmp_path: Path) -> None:
    """2,000 shards' metadata, and files outside LFS of 8 MiB; peak in kB, as the kernel counts it."""
    small = {f"part-{number}.json": bytes([number]) * (8 << 20) for number in range(4)}
    hub.commit(FILES | small | {f"layers-{number}.safetensors": b"%d" % number for number in range(2000)})
    done, peak = builder_peak(
        "checkpoint", "digest", "hf:owner/model", "--json", cwd=tmp_path, env=settings(hub, tmp_path)
    )
    assert done.code == 0, done.err
    assert len(done.document["files"]) == 2000 + 4 + 5
    assert peak < 100_000


def test_a_silent_hub_ends_the_command(hub: Hub, tmp_path: Path) -> None:
    hub.commit(FILES)
    hub.faults = {"tree/3": "stall"}
    done = digest(hub, "hf:owner/model", tmp_path, BUILDER_HTTP_TIMEOUT="0.5")
    assert done.code == 5
    assert "does not respond" in done.document["error"]["message"]
    assert "BUILDER_HTTP_TIMEOUT" in done.document["error"]["hint"]
    assert digest(hub, "hf:owner/model", tmp_path, BUILDER_HTTP_TIMEOUT="soon").code == 2


def test_pages_that_repeat_themselves_and_metadata_that_is_none_are_refused(spoiled: Hub, owned: Owned) -> None:
    entries = spoiled.entries
    for change, code in (
        ({"path": "config.json"}, 4), ({"path": 7}, 5), ({"size": -1}, 5), ({"size": "9"}, 5), ({"oid": None}, 4),
        ({"lfs": {"oid": "abc", "size": 1, "pointerSize": 1}}, 5), ({"lfs": {"oid": None, "size": 1, "pointerSize": 1}}, 5),
        ({"lfs": 3}, 5), ({"path": "a\ud800.json"}, 5), ({"path": "a\rb", "lfs": {"oid": "0" * 64, "size": 1, "pointerSize": 1}}, 2),
    ):  # fmt: skip
        spoiled.entries = lambda commit, change=change: [  # type: ignore[method-assign, misc]
            {**each, **change} if each["path"] == "empty.txt" else each for each in entries(commit)
        ]
        with pytest.raises(BuilderError) as caught:
            digest_hub("owner/model", None, context=owned.context)
        assert caught.value.exit_code == code, change


def test_pages_that_lead_back_are_refused(spoiled: Hub, owned: Owned) -> None:
    spoiled.link = lambda begin: f"{spoiled.url}/api/models/owner/model/tree/{spoiled.branches['main']}?cursor=0"
    with pytest.raises(BuilderError, match="repeat") as caught:
        digest_hub("owner/model", None, context=owned.context)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("place", ["tree", "file"])
def test_the_token_goes_to_the_hub_alone(spoiled: Hub, owned: Owned, place: str) -> None:
    """Whether the next page or a file's storage is elsewhere."""
    with serving(Hub(), "127.0.0.2") as other:
        if place == "tree":
            spoiled.link = lambda begin: f"{other.url}/next"
        else:
            spoiled.moved = {"config.json": f"{other.url}/config.json"}
        with pytest.raises(BuilderError):
            digest_hub("owner/model", None, context=owned.context)
        assert other.seen
        assert all("Authorization" not in headers for headers in other.headers)


def test_a_password_in_the_endpoint_is_sent_and_not_shown(
    hub: Hub, owned: Owned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.commit(FILES)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("://", f"://me:{SECRET}@"))
    context = Context(Console(verbosity=2), limits=owned.limits)
    digest_hub("owner/model", None, context=context)
    assert all(headers["Authorization"].startswith("Basic ") for headers in hub.headers)
    hub.faults = {"info": "500"}
    with pytest.raises(BuilderError) as caught:
        digest_hub("owner/model", None, context=context)
    printed = capfd.readouterr()
    for text in (str(caught.value.as_json()), printed.out, printed.err):
        assert SECRET not in text
    monkeypatch.setenv("HF_ENDPOINT", f"http://me:{SECRET}@[")
    with pytest.raises(BuilderError) as caught:
        digest_hub("owner/model", None, context=context)
    assert caught.value.exit_code == 2
    assert SECRET not in str(caught.value.as_json())


def test_the_token_is_in_no_file(spoiled: Hub, owned: Owned, tmp_path: Path) -> None:
    """Not in the cache, the lock, the library's own folders or what is printed."""
    (tmp_path / "r.yaml").write_text(
        "name: r\nbase: wheel:click==8.1.8\npackage: click\ncheckpoint: {repo: owner/model}\n"
    )
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    done = builder("lock", "r.yaml", "-v", cwd=tmp_path, env=env)
    assert done.code == 0, done.err
    assert digest_hub("owner/model", None, context=owned.context).digest in (tmp_path / "r.lock.yaml").read_text()
    texts = [
        done.out,
        done.err,
        *(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()),
    ]
    assert all(SECRET not in text for text in texts)
