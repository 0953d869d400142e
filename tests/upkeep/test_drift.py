"""What moved upstream: a real repository behind GitHub's routes, to which each thing happens in turn."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.base.wheel_archive import WheelLink
from builder.cli.app import run
from builder.documents.lock import LockedCheckpoint
from builder.documents.recipe import CheckpointSpec
from builder.oci.registry.client import Registry
from builder.upkeep.drift.surroundings import checkpoint_drift
from builder.util.context import Context
from builder.util.errors import UnreachableError
from builder.util.files import file_sha256
from builder.util.project import Project
from tests.support.cli import builder
from tests.support.github import Fault, Pull
from tests.support.registry import registry, skopeo_copy
from tests.support.smallwheel import FILES, make_project, make_wheel
from tests.support.standin import tar_of, write_layout
from tests.support.trees import git
from tests.support.upstream import CASES, EDITED, PULL, World, locked_world, push, rerender, squash


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with locked_world(tmp_path) as made:
        yield made


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_named_and_no_build_changes(world: World, name: str) -> None:
    happens, code, cause, detail = CASES[name]
    before = world.digest()
    if happens is not None:
        happens(world.hub)
    found_code, finding = world.drift()
    assert (found_code, finding["cause"]) == (code, cause), finding
    assert detail in finding["detail"]
    assert finding["drifted"] is (code == 4)
    if cause == "merged":
        pull: Pull = world.hub.pulls[39931]
        assert finding["merge_commit"] == pull.merge_commit
    assert world.digest() == before
    assert world.run("lock", "small", "--check").code == 0


@pytest.mark.parametrize(
    "name",
    ["nothing", "pushed to", "force-pushed", "squashed", "merged", "reverted", "reverted later", "merge reverted"],
)
def test_git_alone_tells_as_much_as_it_can(world: World, name: str) -> None:
    happens, code, cause, detail = CASES[name]
    if happens is not None:
        happens(world.hub)
    world.hub.faults = {"/repos/": [Fault(403)], ".diff": [Fault(403)]}
    found_code, finding = world.drift()
    assert (found_code, finding["cause"]) == (code, cause), finding
    assert cause != "merged" or detail in finding["detail"]


def test_a_pull_request_for_another_branch_is_compared_with_that_branch(world: World) -> None:
    """Of a release that has work of its own. Without the API, git is told what the lock knows of the branch."""
    hub = world.hub
    hub.commit({"vllm/old.py": b"gone = 'in the release'\n"}, "of the release", branch="release")
    hub.publish("release")
    hub.rewrite("feature", "release")
    hub.open_pull(39931, hub.commit({"vllm/config.py": EDITED}, "a fix", branch="feature"), base="release")
    assert world.run("lock", "small", "--update").code == 0
    away = {"/repos/": [Fault(403)], ".diff": [Fault(403)]}
    hub.faults = away
    assert (world.drift()[0], world.drift()[1]["cause"]) == (0, "unchanged")
    # A lock that does not know: the default branch is a guess, and no cause follows from a guess.
    lock = world.project / "images/small.lock.yaml"
    lock.write_text(lock.read_text().replace("  base_branch: release\n", ""))
    code, finding = world.drift()
    assert (code, finding["cause"]) == (0, "unchanged"), finding
    assert "its base branch is not known" in finding["detail"]
    hub.rewrite("feature", "release")
    hub.open_pull(39931, hub.commit({"vllm/config.py": EDITED}, "said better", branch="feature"), base="release")
    code, finding = world.drift()
    assert (code, finding["cause"]) == (4, "force-pushed"), finding
    assert "whether the change is another is not known" in finding["detail"]


@pytest.mark.parametrize("renamed", [False, True], ids=["the branch is gone", "the default branch has another name"])
def test_git_alone_goes_on_without_the_branch_that_the_lock_names(world: World, renamed: bool) -> None:
    """After a stacked pull request's branch was merged and deleted, or main was renamed. The default branch is a guess."""
    hub = world.hub
    if renamed:
        git(hub.bare, "branch", "-m", "main", "trunk")
        git(hub.bare, "symbolic-ref", "HEAD", "refs/heads/trunk")
    else:
        hub.rewrite("below", "main")
        hub.publish("below")
        hub.pulls[39931].base = "below"
        assert world.run("lock", "small", "--update").code == 0
        git(hub.bare, "update-ref", "-d", "refs/heads/below")
    hub.faults = {"/repos/": [Fault(403)], ".diff": [Fault(403)]}
    code, finding = world.drift()
    assert (code, finding["cause"]) == (0, "unchanged"), finding
    done = world.run("lock", "small", "--update", "--json")
    assert done.code == 0, done.err
    assert done.document["overlays"][0]["base_branch"] is None
    assert "does not exist: its diff is taken against the default branch" in done.err


@pytest.mark.parametrize("branch", ["release", "main"])
def test_the_same_head_with_another_merge_base(world: World, branch: str) -> None:
    """A branch has the first of two commits already: another branch than the one it was for, or the same one."""
    hub = world.hub
    first = hub.pulls[39931].head
    push(hub)
    assert world.run("lock", "small", "--update").code == 0
    hub.rewrite(branch, first)
    hub.publish(branch)
    hub.pulls[39931].base = branch
    code, finding = world.drift()
    if branch == "main":
        assert (code, finding["cause"]) == (4, "merge base moved"), finding
        assert "the branch main has some of its commits by now" in finding["detail"]
    else:
        assert (code, finding["cause"]) == (4, "retargeted"), finding
        assert "for the branch release now and no longer main" in finding["detail"]


def test_a_rebase_that_puts_the_lines_beside_others_is_to_be_looked_at(world: World) -> None:
    hub = world.hub
    lines = FILES["vllm/config.py"].splitlines(keepends=True)
    lines.insert(19, b"option_new = 1\n")
    hub.commit({"vllm/config.py": b"".join(lines)}, "main goes on")
    hub.rewrite("feature", "main")
    lines[21] = b"option_20 = 2020\n"
    hub.open_pull(39931, hub.commit({"vllm/config.py": b"".join(lines)}, "anew", branch="feature"))
    code, finding = world.drift()
    assert (code, finding["cause"]) == (4, "rebased"), finding
    assert "beside other lines" in finding["detail"]
    assert "nothing must be done" not in finding["next"]


def test_what_is_no_overlay_any_more_hides_nothing_else(world: World) -> None:
    CASES["taken back"][0](world.hub)  # type: ignore[misc]
    make_wheel(world.project / "vllm-0.0.1-py3-none-any.whl", {**FILES, "vllm/new.py": b""})
    done = world.run("drift", "small", "--json")
    assert done.code == 4, done.err
    assert [each["cause"] for each in done.document["findings"]] == ["new commits", "base tag moved"]


def test_a_pull_request_that_was_merged_when_it_was_locked_is_no_drift(world: World) -> None:
    squash(world.hub)
    updated = world.run("lock", "small", "--update", PULL)
    assert updated.code == 0, updated.err
    code, finding = world.drift()
    assert (code, finding["cause"]) == (0, "unchanged"), finding
    assert "was merged already when it was locked" in finding["detail"]
    assert finding["first_release"] == "v0.0.3"


def test_a_base_that_lost_the_change_again_is_not_advised(world: World) -> None:
    CASES["reverted later"][0](world.hub)  # type: ignore[misc]
    finding = world.drift()[1]
    assert finding["next"].endswith("vllm/vllm-openai:v0.0.3` drops #39931; v0.0.4 does not have it"), finding
    assert finding["reverted_as"] == git(world.hub.bare, "rev-parse", "main").decode().strip()


def test_nobody_to_ask_is_5(world: World) -> None:
    nobody = "http://127.0.0.1:9"
    done = world.run("drift", "small", BUILDER_GITHUB_URL=nobody, BUILDER_GITHUB_API_URL=nobody)
    assert done.code == 5
    world.hub.faults = {"/": [Fault(503)]}
    assert world.run("drift", "small").code == 5


def test_markdown_for_an_issue(world: World) -> None:
    assert "## No drift of `small`" in world.run("drift", "small", "--markdown").out
    push(world.hub)
    done = world.run("drift", "small", "--markdown")
    assert done.code == 4
    assert "## 1 of 2 pins of `small` drifted" in done.out
    assert f"| overlay | `{PULL}` | **new commits** |" in done.out
    assert f"builder lock small --update {PULL}" in done.out
    assert "(Hybrid TurboQuant; octocat)" in done.out


def test_what_others_write_is_text_in_the_issue(world: World) -> None:
    pull = world.hub.pulls[39931]
    pull.title = "a | b `c` <img src=x> [click](http://evil) @everyone #1 **bold**\nnext"
    assert world.run("lock", "small", "--update").code == 0
    push(world.hub)
    done = world.run("drift", "small", "--markdown")
    assert done.code == 4
    for active in ("<img", "](", "@everyone", " #1", "**bold", "http://evil", "`c`"):
        assert active not in done.out, active
    assert "click" in done.out


def test_an_update_prints_what_changed_in_the_change(world: World) -> None:
    world.hub.rewrite("feature", "main")
    other = EDITED.replace(b"2020", b"2121")
    head = world.hub.commit({"vllm/config.py": other, "vllm/old.py": b"gone = False\n"}, "anew", branch="feature")
    world.hub.open_pull(39931, head)
    done = world.run("lock", "small", "--update", PULL)
    assert done.code == 0, done.err
    assert "vllm/config.py: changed otherwise" in done.out
    assert "-+option_20 = 2020" in done.out
    assert "++option_20 = 2121" in done.out
    assert "vllm/old.py: changed now" in done.out
    assert world.drift()[0] == 0
    again = world.run("lock", "small", "--update", PULL, "--json")
    assert again.document["interdiffs"] == {}


def test_a_base_that_moves_and_goes(world: World) -> None:
    wheel = world.project / "vllm-0.0.1-py3-none-any.whl"
    make_wheel(wheel, {**FILES, "vllm/new.py": b""})
    done = world.run("drift", "small", "--json")
    assert done.code == 4
    assert [each["cause"] for each in done.document["findings"]] == ["unchanged", "base tag moved"]
    wheel.unlink()
    gone = world.run("drift", "small", "--json")
    assert [each["cause"] for each in gone.document["findings"]] == ["unchanged", "base deleted"]


def test_an_edited_copy_is_named_and_a_lost_one_is_no_drift(world: World) -> None:
    vendored = world.project / "overlays/vllm-project-vllm-39931.diff"
    data = vendored.read_bytes()
    vendored.write_bytes(data.replace(b"2020", b"2222"))
    code, finding = world.drift()
    assert (code, finding["cause"]) == (4, "edited")
    vendored.unlink()
    code, finding = world.drift()
    assert (code, finding["cause"]) == (0, "unchanged")


def test_an_edited_local_diff_is_named(world: World) -> None:
    vendored = (world.project / "overlays/vllm-project-vllm-39931.diff").read_bytes()
    project = make_project(world.project.parent / "local", {"one.diff": vendored})
    assert builder("lock", "small", cwd=project, env=world.env).code == 0
    assert builder("drift", "small", cwd=project, env=world.env).code == 0
    (project / "overlays/one.diff").write_bytes(vendored.replace(b"2020", b"2222"))
    done = builder("drift", "small", "--json", cwd=project, env=world.env)
    assert (done.code, done.document["findings"][0]["cause"]) == (4, "edited")


def test_the_rendering_enters_no_image(world: World) -> None:
    """Two people who lock on different days get the same image, though GitHub rendered the diff differently."""
    first = json.loads(world.run("lock", "small", "--json").out)
    assert first["overlays"][0]["rendering"]["via"] == "compare"
    rerender(world.hub)
    second = json.loads(world.run("lock", "small", "--update", "--json").out)
    assert first["overlays"][0]["rendering"] != second["overlays"][0]["rendering"]
    assert first["inputs"] == second["inputs"]


def test_a_wheel_for_each_of_two_platforms_is_no_drift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    platforms = ["linux/amd64", "linux/arm64"]
    links = {}
    for name in platforms:
        wheel = make_wheel(tmp_path / name / "vllm-0.0.1-py3-none-any.whl", {**FILES, "vllm/of.py": name.encode()})
        links[name] = WheelLink(wheel.as_uri(), wheel.name, file_sha256(wheel))
    for place in ("builder.base.wheel", "builder.upkeep.drift.surroundings"):
        monkeypatch.setattr(f"{place}.choose_wheel", lambda name, version, platform: links[str(platform)])
    diff = b"--- a/vllm/old.py\n+++ b/vllm/old.py\n@@ -1 +1 @@\n-gone = True\n+gone = False\n"
    project = make_project(tmp_path / "p", {"one.diff": diff}, base="wheel:vllm==0.0.1", platforms=platforms)
    monkeypatch.chdir(project)
    assert run(["lock", "small"]) == 0
    assert run(["drift", "small"]) == 0, capfd.readouterr().out
    # Another build of the one that the lock knows.
    links["linux/arm64"] = links["linux/amd64"]
    assert run(["drift", "small"]) == 4
    assert "base tag moved" in capfd.readouterr().out


def test_a_tag_in_a_registry_that_moves_and_goes(world: World, tmp_path: Path) -> None:
    root = "usr/local/lib/python3.12/dist-packages"
    files = {f"{root}/{path}": data for path, data in FILES.items()}
    files[f"{root}/vllm-0.0.1.dist-info/RECORD"] = "".join(f"{path},,\n" for path in FILES).encode()
    files[f"{root}/vllm-0.0.1.dist-info/METADATA"] = b"Name: vllm\n"
    layers = [tar_of({"usr/bin/python3": b"#!"}), tar_of(files)]
    first = write_layout(tmp_path / "first" / "base", layers)
    second = write_layout(tmp_path / "second" / "base", [*layers, tar_of({"opt/more": b"x"})])
    with registry(tmp_path / "registry") as host:
        skopeo_copy(f"oci:{first}:base", f"docker://{host}/vllm:v1")
        vendored = (world.project / "overlays/vllm-project-vllm-39931.diff").read_bytes()
        project = make_project(tmp_path / "image", {"one.diff": vendored}, base=f"{host}/vllm:v1")
        assert builder("lock", "small", cwd=project, env=world.env).code == 0

        def base() -> tuple[int, str, str | None]:
            done = builder("drift", "small", "--json", cwd=project, env=world.env)
            finding = done.document["findings"][-1]
            return done.code, finding["cause"], finding["upstream"]

        assert base() == (0, "unchanged", None)
        skopeo_copy(f"oci:{second}:base", f"docker://{host}/vllm:v1")
        moved = Registry(host).has_manifest("vllm", "v1")
        assert base() == (4, "base tag moved", moved)
        # The same name, and what it stands for now: a rebase locks what it judged.
        other = make_project(tmp_path / "rebased", {"one.diff": vendored}, base=f"{host}/vllm:v1")
        (other / "images/small.lock.yaml").write_bytes((project / "images/small.lock.yaml").read_bytes())
        done = builder("rebase", "small", "--base", f"{host}/vllm:v1", "--write", "--json", cwd=other, env=world.env)
        assert done.code == 0, done.err
        assert done.document["bases"][0]["lock"]["base"] == moved
        assert builder("drift", "small", cwd=other, env=world.env).code == 0
        urllib.request.urlopen(
            urllib.request.Request(f"http://{host}/v2/vllm/manifests/{moved}", method="DELETE"), timeout=30
        ).close()
        assert base() == (4, "base deleted", None)
    done = builder("drift", "small", cwd=project, env={**world.env, "BUILDER_HTTP_TIMEOUT": "1"})
    assert done.code == 5


def test_a_revision_on_the_hub_that_moves_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's model route, as huggingface_hub asks it; the name of what is missing stands in a header."""
    answers: dict[str, str] = {"/api/models/o/n/revision/main": "a" * 40}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            commit = answers.get(self.path.split("?")[0])
            body = json.dumps({"id": "o/n", "sha": commit} if commit else {"error": "not found"}).encode()
            self.send_response(200 if commit else 404)
            if commit is None:
                self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    project = Project(Path("/p"), Path("/p/images/small.yaml"))
    locked = LockedCheckpoint(digest="0" * 64, repo="o/n", revision="a" * 40)
    spec = CheckpointSpec(repo="o/n", revision="main")

    def cause() -> str:
        finding = checkpoint_drift(project, locked, spec, context=Context())
        assert finding is not None
        return finding.cause

    try:
        assert cause() == "unchanged"
        answers["/api/models/o/n/revision/main"] = "b" * 40
        assert cause() == "checkpoint revision moved"
        answers.clear()
        assert cause() == "checkpoint gone"
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(UnreachableError):
        cause()
