"""What people meet on their first day: a plain message at the right line, and a hint that works as printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.base.wheel import _offer
from builder.documents.profile import Range
from builder.documents.yamlfile import parse_yaml
from builder.serve.smoke.checks.log import _show_range
from builder.util.errors import InputError
from tests.support.cli import Ran, builder
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git_diff

ROOT = Path(__file__).parents[2]
NOBODY = {
    "BUILDER_GITHUB_URL": "http://127.0.0.1:9", "BUILDER_GITHUB_API_URL": "http://127.0.0.1:9", "BUILDER_HTTP_TIMEOUT": "1",
    "DOCKER_HOST": "unix:///nowhere.sock",
}  # fmt: skip
HEAD = "name: x\nbase: wheel:vllm-0.0.1-py3-none-any.whl\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one recipe and a change that applies."""
    edited = {**FILES, "vllm/config.py": FILES["vllm/config.py"].replace(b"= 20\n", b"= 2020\n")}
    return make_project(tmp_path / "project", {"one.diff": git_diff(tmp_path / "git", FILES, edited)})


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ("overlays: fix.diff\n", "3:11", "is a list; write `overlays:`, and below it `  - file: fix.diff`"),
        ("overlays: 39931\n", "3:11", "expected a list"),
        ("overlays:\n  - fix.diff\n", "4:5", "write it as `- file: fix.diff`"),
        ("overlays:\n  - vllm-project/vllm#5\n", "4:5", "write it as `- pull: vllm-project/vllm#5`"),
        ("overlays:\n  - pull: a/b #1\n", "4:11", "in YAML, ` #` begins a comment"),
        ("overlays:\n  - pull: #1\n", "4:5", "in YAML, `#` begins a comment"),
        ("overlays:\n  - pull: https://gitlab.com/a/b/pull/1\n", "4:11", "a pull request of gitlab.com"),
        ("overlays:\n  - pull: 1\n  - file: x\n  - pull: vllm-project/vllm#1\n", "6:5", "is repeated; it is number 1"),
        ("platforms:\n  - linux/amd64\n  - linux\n", "5:5", "'linux' is not a platform"),
        ("platforms:\n  - linux/amd64\n  - linux/amd64\n", "5:5", "is repeated"),
        ("profiles: [a, b, a]\n", "3:18", "profile a is repeated"),
        ("default_profile: a\n", "3:18", "is not among the profiles"),
        ("publish: a/b:c\n", "3:10", "names a repository"),
        ("description: 5\n", "3:14", "expected text, found the number 5"),
        ("checkpoint: {digest: SHA256}\n", "3:22", "64 hexadecimal digits"),
    ],
)
def test_a_recipes_error_is_plain_and_at_its_line(tmp_path: Path, body: str, place: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(HEAD + body)
    done = builder("check", "x.yaml", cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith(f"error: x.yaml:{place}: "), done.err
    assert words in done.err


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 2, "has no `]`"),
        ("a: 1\nb: {c: 2\nd: 3\n", 2, "has no `}`"),
        ("a: 1\nb\nc: 3\n", 2, "has no `: `"),
        ('a: 1\nb: "c\nd: 3\n', 2, "does not end"),
        ("a: 1\n  b: 2\n", 2, "indented too far"),
        ("a: 1\nb:\n\t- c\n", 3, "a tab"),
    ],
)
def test_a_syntax_error_is_at_the_line_where_it_is(text: str, line: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "x.yaml")
    assert caught.value.message.startswith(f"x.yaml:{line}:")
    assert words in caught.value.message


def test_digests_are_taken_with_and_without_their_algorithm(tmp_path: Path) -> None:
    project = make_project(tmp_path, {}, checkpoint={"digest": f"sha256:{'c0' * 32}"})
    first = builder("lock", "small", "--json", cwd=project)
    assert first.code == 0, first.err
    path = project / "images/small.yaml"
    path.write_text(path.read_text().replace("sha256:", ""))
    assert builder("lock", "small", "--check", cwd=project).code == 0
    image = f"localhost:5000/a/b@{'ab' * 32}"
    compose = builder("deploy", "compose", "small", "--image", image, "--model", "/m", "--output", "-", cwd=project)
    assert compose.code == 0, compose.err
    assert f"localhost:5000/a/b@sha256:{'ab' * 32}" in compose.out


def test_versions_are_offered_in_their_own_order() -> None:
    known = {"0.8.5", "0.9.0", "0.20.0", "0.20.1", "0.31.0", "0.32.0", "0.33.0rc1", "not a version"}
    assert _offer("0.20.99", known) == "the index has 0.20.1, 0.20.0, 0.32.0, 0.31.0"
    assert _offer("nonsense", {"1.0rc1"}) == "the index has 1.0rc1"
    assert "check the name" in _offer("1.0", set())


def test_a_range_is_printed_as_people_write_numbers() -> None:
    assert _show_range(Range(min=1048576, max=1048576)) == "1,048,576"
    assert _show_range(Range(min=14560, max=18720.5)) == "14,560 to 18,720.5"
    assert _show_range(Range(min=1.5)) == "at least 1.5"


def test_a_missing_diff_is_found_before_a_server_is_asked(project: Path) -> None:
    recipe = project / "images/small.yaml"
    recipe.write_text(recipe.read_text().replace("overlays:\n", "overlays:\n- pull: a/b#1\n- file: one.diff\n"))
    done = builder("lock", "small", cwd=project, env=NOBODY)
    assert done.code == 2
    assert "cannot read the diff one.diff" in done.err
    assert "did you mean overlays/one.diff?" in done.err
    assert "fetching" not in done.err


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ("is empty", "put a unified diff there")),
        (b"--- a/vllm/config.py\n+++ b/vllm/config.py\n@@ -1,3 +1,3 @@\n a\n-b\n", ("may be truncated", "`git diff`")),
    ],
)
def test_an_unusable_local_diff_is_not_to_be_fetched(project: Path, data: bytes, words: tuple[str, ...]) -> None:
    (project / "overlays/one.diff").write_bytes(data)
    done = builder("lock", "small", cwd=project)
    assert done.code == 2
    assert all(word in done.err for word in words), done.err
    assert "builder lock" not in done.err


def test_without_github_the_way_on_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, {}, overlays=[{"pull": "a/b#1"}])
    done = builder("lock", "small", cwd=project, env=NOBODY)
    assert done.code == 5
    assert "without GitHub" in done.err
    assert "`file:`" in done.err


def test_a_base_in_docker_advises_no_option_that_the_command_lacks(tmp_path: Path) -> None:
    project = make_project(tmp_path, {}, base="docker:foo/bar:1")
    for command in ("check", "lock"):
        done = builder(command, "small", cwd=project, env=NOBODY)
        assert done.code == 5
        assert "start the daemon" in done.err
        assert "--engine" not in done.err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--load"], 2, "wheel base cannot be loaded"),
        (["--engine", "docker"], 2, "no image to build on"),
        (["--load", "--output", "oci-archive:x.tar"], 2, "--load goes with --output oci:DIR"),
        (["--output", "oci-archive:images"], 2, "is not a file"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_resolved(
    project: Path, options: list[str], code: int, words: str
) -> None:
    done = builder("build", "small", *options, cwd=project, env=NOBODY)
    assert (done.code, words in done.err) == (code, True), done.err
    assert not (project / "images/small.lock.yaml").exists()
    assert not (project / "dist").exists()


def test_a_wheel_base_is_offered_nothing_that_needs_an_image(project: Path) -> None:
    built = builder("build", "small", "--json", cwd=project, env=NOBODY)
    assert list(built.document["next"]) == ["verify"], built.err
    shutil.copytree(ROOT / "gates", project / "gates")
    for command in (["run", "small"], ["smoke", "small"], ["gate", "small", "tiny", "--suite", "sample"]):
        done = builder(*command, cwd=project, env=NOBODY)
        assert (done.code, "a wheel base does not run" in done.err) == (2, True), done.err
    rendered = builder("render", "small", "--output", "context", cwd=project)
    assert (rendered.code, "--engine" in rendered.err) == (2, False), rendered.err


def test_a_docker_that_does_not_respond_is_told_in_words(project: Path) -> None:
    doctor = builder("doctor", "--offline", "--json", cwd=project, env=NOBODY)
    (docker,) = (each["text"] for each in doctor.document["findings"] if each["name"] == "Docker")
    assert docker == "does not respond: its socket does not exist"


def test_loading_asks_for_docker_before_anything_is_resolved(project: Path) -> None:
    recipe = project / "images/small.yaml"
    recipe.write_text(re.sub("base: .*", "base: 127.0.0.1:9/a/b:c", recipe.read_text()))
    done = builder("build", "small", "--load", cwd=project, env=NOBODY)
    assert (done.code, "Docker does not respond" in done.err) == (5, True), done.err


def test_make_run_wants_a_profile_before_it_sets_anything_up(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(["make", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: name a profile: make run PROFILE=smoke")
    assert not (tmp_path / ".venv").exists()


# A state of a project, the folder and the command that meets it, and the folder's exit code after the hint was followed.
def _nothing(_project: Path) -> None:
    pass


def _stale(project: Path) -> None:
    assert builder("lock", "small", cwd=project).code == 0
    (project / "profiles/tiny.yaml").write_text("name: tiny\nflags: {max-model-len: 17}\n")


def _stale_outside(project: Path) -> None:
    (project / "mine.yaml").write_text(
        "name: mine\nbase: wheel:vllm-0.0.1-py3-none-any.whl\noverlays:\n- file: overlays/one.diff\n"
    )
    assert builder("lock", "mine.yaml", cwd=project).code == 0
    path = project / "mine.yaml"
    path.write_text(path.read_text() + "description: changed\n")


def _empty_lock(project: Path) -> None:
    (project / "images/small.lock.yaml").touch()


def _recipe_as_lock(project: Path) -> None:
    (project / "images/small.lock.yaml").write_bytes((project / "images/small.yaml").read_bytes())


def _edited_diff(project: Path) -> None:
    assert builder("lock", "small", cwd=project).code == 0
    path = project / "overlays/one.diff"
    path.write_bytes(path.read_bytes().replace(b"2020", b"3030"))


def _edited_epoch(project: Path) -> None:
    assert builder("lock", "small", cwd=project).code == 0
    path = project / "images/small.lock.yaml"
    path.write_text(re.sub(r"^epoch: .*$", "epoch: 400000000", path.read_text(), flags=re.MULTILINE))


HINTS: list[tuple[Callable[[Path], None], str, str]] = [
    (_nothing, ".", "check smal"),
    (_nothing, ".", "check images/small.lock.yaml"),
    (_nothing, "images", "rebase small --base wheel:vllm-0.0.1-py3-none-any.whl"),
    (_nothing, ".", "drift small"),
    (_nothing, ".", "verify oci:dist/small --recipe small"),
    (_nothing, ".", "deploy compose small --image a/b@sha256:" + "0" * 64 + " --output - --model /m"),
    (_nothing, "overlays", "run small --print"),
    (_nothing, ".", "stack export small --output out"),
    (_stale, ".", "build small"),
    (_stale, "profiles", "build small"),
    (_stale, "images", "build small.yaml"),
    (_stale, ".", "lock small --check"),
    (_stale_outside, ".", "build mine.yaml"),
    (_stale_outside, "overlays", "build ../mine.yaml"),
    (_stale_outside, ".", "check mine"),
    (_empty_lock, ".", "check small"),
    (_empty_lock, "images", "build small.yaml"),
    (_recipe_as_lock, ".", "check small"),
    (_edited_diff, ".", "build small"),
    (_edited_epoch, ".", "build small"),
    (_nothing, ".", "init small --pull 1"),
    (_nothing, ".", "init new"),
]


def hinted(done: Ran) -> list[list[str]]:
    """The commands in the hint of an error: what is between backquotes, and what follows a colon to the line's end."""
    hint = done.err[done.err.rindex("  next") :]
    found = re.findall(r"`(builder [^`]+)`", hint) + re.findall(r": (builder [^`;]+?)(?:;|$)", hint, flags=re.MULTILINE)
    return [shlex.split(each) for each in dict.fromkeys(found)]


@pytest.mark.parametrize(("spoil", "folder", "command"), HINTS)
def test_a_hint_works_as_printed_where_it_was_printed(
    project: Path, spoil: Callable[[Path], None], folder: str, command: str
) -> None:
    spoil(project)
    here = project / folder
    made = command == "check images/small.lock.yaml"
    if made:
        _stale(project)
    done = builder(*shlex.split(command), cwd=here, env=NOBODY)
    assert done.code not in (0, 1), done.out
    commands = hinted(done)
    if "did you mean" in done.err or made:
        # A name, not a command: the same command with it.
        name = re.findall(r"did you mean (?:the file )?([\w./-]+?)\?|belongs to: (\S+)", done.err)[0]
        commands = [["builder", command.split(maxsplit=1)[0], name[0] or name[1]]]
    assert commands, done.err
    for words in commands:
        if "away, then" in done.err or "delete it" in done.err:
            (project / "images/small.lock.yaml").unlink(missing_ok=True)
        again = builder(*[word.replace("NUMBER", "5") for word in words[1:]], cwd=here, env=NOBODY)
        assert again.code in ((4,) if ("did you mean" in done.err and "mine" in command) or made else (0,)), again.err


def test_names_are_found_from_a_folder_below(project: Path) -> None:
    for folder in ("images", "profiles", "overlays"):
        assert builder("lock", "small", "--check", "--json", cwd=project / folder).code in (0, 4)
        assert builder("lock", "small", cwd=project / folder).code == 0
        for command in ("profile list", "profile show tiny", "profile lint tiny", "list"):
            done = builder(*command.split(), cwd=project / folder)
            assert done.code == 0, done.err
            assert ("small" if command == "list" else "tiny") in done.out
    assert (project / "images/small.lock.yaml").is_file()
    assert not (project / "images/images").exists()


@pytest.mark.parametrize(
    "command",
    ["check small", "rebase small --base wheel:vllm-0.0.1-py3-none-any.whl", "drift small", "verify oci:out --recipe small",
     "deploy kubernetes small --image a/b@sha256:" + "0" * 64 + " --output -", "run small --print", "stack export small --output x"],
)  # fmt: skip
def test_commands_that_only_look_write_no_lock(project: Path, command: str) -> None:
    assert builder("build", "small", "--engine", "oci", "--output", "oci:out", cwd=project).code == 0
    (project / "images/small.lock.yaml").unlink()
    before = sorted(project.rglob("*"))
    done = builder(*shlex.split(command), cwd=project)
    assert done.code == (0 if command.startswith("check") else 2)
    assert "builder lock small" in done.out + done.err
    assert sorted(project.rglob("*")) == before


def test_who_works_elsewhere_is_told_where_the_lock_would_be(project: Path, tmp_path: Path) -> None:
    below = project / "below"
    below.mkdir()
    for folder, recipe in ((below, "small"), (tmp_path, "project/images/small.yaml")):
        for command in (["run", recipe], ["drift", recipe]):
            done = builder(*command, cwd=folder, env=NOBODY)
            assert done.code == 2
            assert done.err.startswith(f"error: images/small.lock.yaml does not exist\n  project  {project}\n"), (
                done.err
            )
    assert str(project) not in builder("run", "small", cwd=project).err
    made = builder("lock", "project/images/small.yaml", cwd=tmp_path)
    assert made.code == 0, made.err
    (project / "profiles/tiny.yaml").write_text("name: tiny\nflags: {max-model-len: 4096}\n")
    stale = builder("run", "small", cwd=below)
    assert (stale.code, f"  project  {project}\n" in stale.err) == (4, True), stale.err


def test_a_command_with_a_space_in_a_name_can_be_pasted(project: Path, tmp_path: Path) -> None:
    (project / "images/small.yaml").rename(project / "images/m x.yaml")
    for folder in (project, tmp_path):
        missing = builder("run", os.path.relpath(project / "images/m x.yaml", folder), cwd=folder)
        (line,) = re.findall(r"commit it: builder (.*)\n", missing.err)
        assert builder(*shlex.split(line), cwd=folder).code == 0, line
        (project / "images/m x.lock.yaml").unlink()
    checked = builder("check", "m x", cwd=project)
    (line,) = re.findall(r"Next: builder (.*)\n", checked.out)
    assert shlex.split(line) == ["lock", "m x"]
    archive = tmp_path / "an archive.tar"
    archive.write_bytes(b"")
    assert f"oci-archive:'{archive}' oci:DIR" in builder("verify", str(archive), cwd=project).err


def test_a_suite_is_looked_for_in_the_project_and_no_policy_is_offered(project: Path) -> None:
    missing = builder("gate", "lint", "none", cwd=project)
    assert "name the file of a suite" in missing.err, missing.err
    (project / "gates").mkdir()
    (project / "gates/one.yaml").write_text("name: one\n")
    (project / "gates/production.yaml").write_text("name: production\nsuites:\n  - name: one\n")
    (project / "below").mkdir()
    done = builder("gate", "lint", "zzz", cwd=project / "below")
    assert f"  looked  {project}/gates/zzz.yaml\n  next    suites here: one\n" in done.err, done.err


def test_quiet_leaves_warnings_and_errors(project: Path) -> None:
    (project / "profiles/tiny.yaml").write_text("name: tiny\nflags: {no-such-flag: 1}\n")
    for command in ("lock small", "build small --engine oci", "list", "verify oci:dist/small", "check small --offline"):
        done = builder(*command.split(), "-q", cwd=project)
        assert done.out == ""
        assert all(line.startswith(("warning:", "error:", " ")) for line in done.err.splitlines()), done.err
    assert builder("schema", "-q", cwd=project).out.startswith("{")
    assert builder("run", "small", "--print", "--model", ".", "-q", cwd=project).out.startswith("docker run")
