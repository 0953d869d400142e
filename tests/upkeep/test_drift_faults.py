"""Drift while something is wrong on the way: the right cause or exit 5, and never a cause that is not true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cli.app import run
from tests.support.clock import Owned
from tests.support.github import Fault
from tests.support.upstream import CASES, World, close, locked_world

TOKEN = "ghp_" + "dr1ft" * 7

FAULTS = {
    "403": Fault(403, b"{}"),
    "404": Fault(404, b"{}"),
    "500": Fault(500, TOKEN.encode()),
    "truncated": Fault(200, b"diff --git a/vllm/config.py b/vllm/config.py\n", truncated=True),
    "HTML": Fault(200, b"<!DOCTYPE html><html>sign in</html>", {"Content-Type": "text/html"}),
    "empty": Fault(200, b""),
    "stall": Fault(stall=0.1),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with locked_world(tmp_path) as made:
        yield made


@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", ["nothing", "pushed to", "force-pushed", "squashed"])
def test_no_fault_makes_up_a_cause(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    happens, code, cause, _ = CASES[name]
    if happens is not None:
        happens(world.hub)
    for key, value in {**world.env, "GITHUB_TOKEN": TOKEN}.items():
        monkeypatch.setenv(key, value)
    # Pauses end at once, and no limit depends on how busy this machine is.
    Owned().install(monkeypatch)
    monkeypatch.chdir(world.project)
    printed = ""
    runs = 0

    def drift() -> tuple[int, str | None]:
        nonlocal printed, runs
        runs += 1
        # A cache of its own each time, so that git has to ask each time.
        monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / f"cache-{runs}"))
        world.hub.seen.clear()
        found = run(["drift", "small", "--json", "-v"])
        said = capfd.readouterr()
        printed += said.out + said.err
        document = json.loads(said.out)
        return found, document["findings"][0]["cause"] if "findings" in document else None

    assert drift() == (code, cause)
    positions = len(world.hub.seen)
    assert positions >= 3
    for fault_name, fault in FAULTS.items():
        for position in range(positions):
            for for_good in (False, True) if fault_name in ("500", "HTML") else (False,):
                world.hub.spoiled = (position, fault, for_good)
                found = drift()
                assert found in ((code, cause), (5, None)), (fault_name, position, for_good)
                if not for_good and fault_name not in ("403", "404"):
                    assert found == (code, cause), (fault_name, position)
    assert TOKEN not in printed
    for path in tmp_path.rglob("*"):
        if path.is_file() and "github" not in path.relative_to(tmp_path).parts:
            assert TOKEN.encode() not in path.read_bytes(), path


def test_git_alone_says_what_it_does_not_know(world: World) -> None:
    world.hub.faults = {"/repos/": [Fault(403)]}
    code, finding = world.drift()
    assert (code, finding["cause"]) == (0, "unchanged")
    assert "does not know whether it was closed" in finding["detail"]
    world.hub.faults = {}
    close(world.hub)
    assert world.run("lock", "small", "--update").code == 0
    # Closed when it was locked, and the API does not say what it is now: not "reopened".
    world.hub.faults = {"/repos/": [Fault(403)]}
    code, finding = world.drift()
    assert (code, finding["cause"]) == (0, "unchanged"), finding


def test_the_api_alone_tells_what_it_can(world: World) -> None:
    CASES["pushed to"][0](world.hub)  # type: ignore[misc]
    world.hub.faults = {".git/": [Fault(500)]}
    code, finding = world.drift()
    assert (code, finding["cause"], finding["detail"]) == (4, "new commits", "1 commit more")


def test_a_merge_is_told_though_the_tags_cannot_be_read(world: World) -> None:
    CASES["squashed"][0](world.hub)  # type: ignore[misc]
    world.hub.faults = {".git/": [Fault(500)]}
    code, finding = world.drift()
    assert (code, finding["cause"], finding["first_release"]) == (4, "merged", None)
    assert "its release is not known" in finding["detail"]


def test_a_tag_that_is_taken_back_is_no_release(world: World) -> None:
    CASES["squashed"][0](world.hub)  # type: ignore[misc]
    assert world.drift()[1]["first_release"] == "v0.0.3"
    world.hub.untag("v0.0.3")
    assert world.drift()[1]["first_release"] == "v0.0.4"
