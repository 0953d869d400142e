"""Overlays from pull requests: a real repository behind GitHub's routes, and git alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.cli import Ran, builder
from tests.support.github import REPOSITORY, Fault, GitHub, github
from tests.support.smallwheel import FILES, make_project, make_wheel

TOKEN = "ghp_" + "s3cr3t" * 6


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[GitHub]:
    with github(tmp_path / "github") as server:
        server.commit({**FILES, "tests/t.py": b"t = 1\n"}, "base")
        edited = FILES["vllm/config.py"].replace(b"option_20 = 20\n", b"option_20 = 2020\n")
        server.commit({"vllm/config.py": edited, "tests/t.py": b"t = 2\n"}, "the change", branch="feature")
        head = server.commit({"vllm/added.py": b"added = 1\n"}, "more of it", branch="feature")
        server.commit({"README.md": b"main goes on\n"}, "elsewhere")
        server.open_pull(39931, head)
        yield server


def project_of(tmp_path: Path, **overlay: object) -> Path:
    return make_project(tmp_path / "project", {}, overlays=[{"pull": f"{REPOSITORY}#39931", **overlay}])


def settings(hub: GitHub, tmp_path: Path, **more: str) -> dict[str, str]:
    return {
        "BUILDER_GITHUB_URL": hub.url,
        "BUILDER_GITHUB_API_URL": hub.url,
        "BUILDER_CACHE_DIR": str(tmp_path / "builder-cache"),
        **more,
    }


def test_a_pull_request_is_locked_vendored_and_built_without_github(hub: GitHub, tmp_path: Path) -> None:
    project = project_of(tmp_path)
    env = settings(hub, tmp_path)
    done = builder("lock", "small", "--json", cwd=project, env=env)
    assert done.code == 0, done.err
    overlay = done.document["overlays"][0]
    assert overlay["head"] == hub.pulls[39931].head
    assert overlay["merge_base"] == hub.merge_base("main", overlay["head"])
    assert (overlay["title"], overlay["author"], overlay["state"]) == ("Hybrid TurboQuant", "octocat", "open")
    vendored = project / "overlays/vllm-project-vllm-39931.diff"
    assert overlay["diff"] == "overlays/vllm-project-vllm-39931.diff"
    assert b"index " not in vendored.read_bytes()
    nobody = settings(
        hub, tmp_path, BUILDER_GITHUB_URL="http://127.0.0.1:9", BUILDER_GITHUB_API_URL="http://127.0.0.1:9"
    )
    built = builder("build", "small", "--engine", "oci", "--json", cwd=project, env=nobody)
    assert built.code == 0, built.err
    assert [each["path"] for each in built.document["files"]] == ["vllm/added.py", "vllm/config.py"]
    # A push to the pull request changes nothing that is pinned.
    hub.open_pull(39931, hub.commit({"vllm/added.py": b"added = 2\n"}, "pushed", branch="feature"))
    assert builder("lock", "small", "--check", cwd=project, env=env).code == 0
    updated = builder("lock", "small", "--update", f"{REPOSITORY}#39931", "--json", cwd=project, env=env)
    assert updated.document["overlays"][0]["head"] == hub.pulls[39931].head


def test_a_rerendered_diff_keeps_its_digest_and_git_gives_the_same(hub: GitHub, tmp_path: Path) -> None:
    digests = set()
    for index, (abbreviation, faults) in enumerate(
        [(7, {}), (12, {}), (7, {"/repos/": [Fault(404)]}), (7, {"compare": [Fault(406)]})]
    ):
        hub.abbreviation = abbreviation
        hub.faults = faults
        project = project_of(tmp_path / str(index))
        done = builder("lock", "small", "--json", cwd=project, env=settings(hub, tmp_path / str(index)))
        assert done.code == 0, done.err
        digests.add(done.document["overlays"][0]["digest"])
    assert len(digests) == 1


def test_pinned_commits_are_taken_and_wrong_pins_refused(hub: GitHub, tmp_path: Path) -> None:
    head = hub.pulls[39931].head
    base = hub.merge_base("main", head)
    hub.open_pull(39931, hub.commit({"vllm/added.py": b"added = 9\n"}, "pushed", branch="feature"))
    project = project_of(tmp_path, head=head, merge_base=base)
    done = builder("lock", "small", "--json", cwd=project, env=settings(hub, tmp_path))
    assert done.code == 0, done.err
    assert b"+added = 1" in (project / "overlays/vllm-project-vllm-39931.diff").read_bytes()
    by_git = project_of(tmp_path / "2", head=head, merge_base=base)
    hub.faults = {"/repos/": [Fault(404)], ".diff": [Fault(404)]}
    again = builder("lock", "small", "--json", cwd=by_git, env=settings(hub, tmp_path / "2"))
    assert again.code == 0, again.err
    assert again.document["overlays"][0]["digest"] == done.document["overlays"][0]["digest"]
    wrong = project_of(tmp_path / "3", head=head, merge_base=base, after={"vllm/added.py": "0" * 64})
    refused = builder("lock", "small", cwd=wrong, env=settings(hub, tmp_path))
    assert refused.code == 4
    assert "is not what the recipe pins" in refused.err
    assert not (wrong / "images/small.lock.yaml").exists()


def test_each_pin_is_compared_with_the_stack_up_to_its_overlay(tmp_path: Path) -> None:
    def diff(old: int, new: int) -> bytes:
        return b"--- a/vllm/old.py\n+++ b/vllm/old.py\n@@ -1 +1 @@\n-gone = %d\n+gone = %d\n" % (old, new)

    def pin(value: int) -> dict[str, str]:
        return {"vllm/old.py": hashlib.sha256(b"gone = %d\n" % value).hexdigest()}

    def locked(name: str, *pins: int) -> Ran:
        overlays = [{"file": f"overlays/{n}.diff", "after": pin(value)} for n, value in enumerate(pins)]
        place = make_project(
            tmp_path / name, {f"{n}.diff": diff(n, n + 1) for n in range(3)}, base="wheel:vllm-0.0.1-py3-none-any.whl", overlays=overlays
        )  # fmt: skip
        make_wheel(place / "vllm-0.0.1-py3-none-any.whl", {**FILES, "vllm/old.py": b"gone = 0\n"})
        return builder("lock", "small", cwd=place)

    assert locked("right", 1, 2, 3).code == 0
    # The file has that content after the third overlay only.
    wrong = locked("wrong", 1, 3, 3)
    assert wrong.code == 4
    assert "is not what the recipe pins after overlays/1.diff" in wrong.err


def test_a_pull_request_for_another_branch_stays_for_it_when_only_git_answers(hub: GitHub, tmp_path: Path) -> None:
    """The release branch has work of its own, which is no part of the pull request."""
    hub.commit({"vllm/old.py": b"gone = 'in the release'\n"}, "of the release", branch="release")
    hub.publish("release")
    hub.rewrite("fix", "release")
    hub.open_pull(39931, hub.commit({"vllm/added.py": b"added = 1\n"}, "a fix", branch="fix"), base="release")
    project = project_of(tmp_path)
    env = settings(hub, tmp_path)
    first = builder("lock", "small", cwd=project, env=env)
    assert first.code == 0, first.err
    vendored = project / "overlays/vllm-project-vllm-39931.diff"
    wanted = vendored.read_bytes()
    assert wanted.count(b"diff --git") == 1
    hub.faults = {"/repos/": [Fault(403)], ".diff": [Fault(403)]}
    again = builder("lock", "small", "--update", "--json", cwd=project, env=env)
    assert again.code == 0, again.err
    assert again.document["overlays"][0]["base_branch"] == "release"
    assert vendored.read_bytes() == wanted
    assert "warning" not in first.err + again.err
    # Where nobody knows, it is said.
    (project / "images/small.lock.yaml").unlink()
    guessed = builder("lock", "small", "--json", cwd=project, env=env)
    assert guessed.code == 0, guessed.err
    assert guessed.document["overlays"][0]["base_branch"] is None
    assert "its diff is taken against the default branch" in guessed.err


def test_what_a_merge_commit_brought_can_still_be_locked(hub: GitHub, tmp_path: Path) -> None:
    project = project_of(tmp_path)
    env = settings(hub, tmp_path)
    before = builder("lock", "small", "--json", cwd=project, env=env)
    hub.merge(39931, squash=False)
    done = builder("lock", "small", "--update", "--json", cwd=project, env=env)
    assert done.code == 0, done.err
    old, new = before.document["overlays"][0], done.document["overlays"][0]
    assert (new["state"], new["merge_base"], new["digest"]) == ("merged", old["merge_base"], old["digest"])


FAULTS = {
    "rate limit, then well": ([Fault(429, headers={"Retry-After": "0"}), Fault(503)], 0),
    "server error": ([Fault(500)], 0),
    "too large": ([Fault(406)], 0),
    "not found": ([Fault(404)], 0),
    "forbidden": ([Fault(403)], 0),
    "HTML": ([Fault(200, b"<!DOCTYPE html><html></html>")], 0),
    "empty": ([Fault(200, b"")], 0),
    "truncated": ([Fault(200, b"diff --git a/vllm/x b/vllm/x\n", truncated=True)], 0),
    "stalls": ([Fault(200, b"", stall=1)], 0),
    "redirect elsewhere": ([Fault(302, headers={"Location": "http://127.0.0.2:1/x"})], 0),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_api_ends_well_by_git(hub: GitHub, tmp_path: Path, name: str) -> None:
    faults, code = FAULTS[name]
    hub.faults = {"compare": list(faults)}
    project = project_of(tmp_path)
    done = builder("lock", "small", cwd=project, env=settings(hub, tmp_path))
    assert done.code == code, done.err
    assert b"+option_20 = 2020" in (project / "overlays/vllm-project-vllm-39931.diff").read_bytes()


def test_nothing_answers_is_5_and_leaves_nothing(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    nobody = {"BUILDER_GITHUB_URL": "http://127.0.0.1:9", "BUILDER_GITHUB_API_URL": "http://127.0.0.1:9"}
    done = builder("lock", "small", cwd=project, env=nobody)
    assert done.code == 5
    assert "cannot fetch vllm-project/vllm#39931" in done.err
    assert list((project / "overlays").iterdir()) == []
    offline = builder("lock", "small", "--offline", cwd=project, env=nobody)
    assert offline.code == 2
    assert "is neither vendored under overlays/ nor in the cache" in offline.err


def test_a_token_goes_to_github_only_and_is_printed_nowhere(hub: GitHub, tmp_path: Path) -> None:
    project = project_of(tmp_path)
    env = settings(hub, tmp_path, GITHUB_TOKEN=TOKEN)
    done = builder("lock", "small", "-v", cwd=project, env=env)
    assert done.code == 0, done.err
    assert any(TOKEN in json.dumps(headers) for _, _, headers in hub.seen)
    hub.faults = {"/": [Fault(500, TOKEN.encode())]}
    failed = builder("lock", "small", "--update", "-v", cwd=project, env=env)
    assert failed.code == 5
    printed = done.out + done.err + failed.out + failed.err
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "github" not in path.parts)
    assert TOKEN not in printed
    assert TOKEN.encode() not in kept


def test_the_flagships_pins_are_those_of_the_record() -> None:
    """The commits and digests of #39931 that are known, so that a lock is checked against them."""
    recipe = yaml.safe_load((Path(__file__).parents[2] / "images/qwen3.6-27b-fp8-vocab.yaml").read_text())
    first, second = recipe["overlays"]
    assert (first["pull"], second["pull"]) == ("vllm-project/vllm#39931", "vllm-project/vllm#41365")
    assert first["head"] == "febe781de3ef29b02d567a3ad96534d595de61c9"
    assert first["merge_base"] == "22fa63cfe849c38bbdb590163043230a1a1a6148"
    assert first["after"]["vllm/engine/arg_utils.py"].startswith("ac8c83c80687134e")
    assert recipe["base"] == "vllm/vllm-openai:v0.20.0"
