"""Beginning: `init`, `list`, `doctor`, `help`, examples and completion, as a person meets them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.app import cli, run
from builder.cli.examples import EXAMPLES
from builder.documents.profile import load_profile
from builder.documents.pull import pull_name
from builder.documents.recipe import load_recipe
from tests.support.cli import builder
from tests.support.smallwheel import make_project

WORDS = st.text("abcXYZ019-", min_size=1, max_size=12).filter(lambda text: text[0] != "-")


@given(
    owner=WORDS, name=WORDS, number=st.integers(1, 10**9), rest=st.sampled_from(["", "/", "/files", ".diff", "?w=1"])
)
def test_every_spelling_of_a_pull_request_is_one_name(owner: str, name: str, number: int, rest: str) -> None:
    wanted = f"{owner}/{name}#{number}"
    assert pull_name(wanted) == wanted
    assert pull_name(f"https://github.com/{wanted.replace('#', '/pull/')}{rest}") == wanted
    assert pull_name(f"github.com/{wanted.replace('#', '/pull/')}{rest}#discussion_r1") == wanted
    assert pull_name(f"#{number}", repository=f"{owner}/{name}") == wanted
    assert pull_name(str(number)) == f"vllm-project/vllm#{number}"


@given(st.text(max_size=60))
def test_any_other_text_is_refused_with_a_value_error(text: str) -> None:
    try:
        found = pull_name(text)
    except ValueError:
        return
    assert pull_name(found) == found


@pytest.mark.parametrize(
    "text",
    ["https://github.com/a/b/issues/3", "https://evil.example/a/b/pull/3", "a/b #3", "a/b", "0", "-3", "a/b/pull/3/commits/abc",
     "https://github.com.evil.example/a/b/pull/3", "http://[::1", "git@github.com:a/b"],
)  # fmt: skip
def test_what_names_no_pull_request_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"pull request|number"):
        pull_name(text)


def test_an_empty_folder_becomes_a_project(tmp_path: Path) -> None:
    done = builder(
        "init",
        "mine",
        "--pull",
        "39931",
        "--pull",
        "https://github.com/a/b/pull/7/files",
        "--pull",
        "c/d#9",
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    recipe = load_recipe(tmp_path / "images/mine.yaml")
    assert [each.id for each in recipe.overlays] == ["vllm-project/vllm#39931", "a/b#7", "c/d#9"]
    assert (recipe.profiles, recipe.default_profile) == (("smoke",), "smoke")
    load_profile(tmp_path / "profiles/smoke.yaml")
    for kind, path in (("recipe", "images/mine.yaml"), ("profile", "profiles/smoke.yaml")):
        first = (tmp_path / path).read_text().splitlines()[0]
        schema = (tmp_path / path).parent / first.removeprefix("# yaml-language-server: $schema=")
        assert json.loads(schema.read_text()) == json.loads(builder("schema", kind, cwd=tmp_path).out)
    assert (tmp_path / ".gitignore").read_text() == "/dist/\n"
    assert done.out.splitlines()[-1] == "next: builder check mine"


def test_an_existing_project_keeps_every_file(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    (project / ".gitignore").write_text("*.pyc\n")
    (project / "profiles/smoke.yaml").write_text("name: smoke\nflags: {max-model-len: 5}\n")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    below = project / "images"
    done = builder("init", "more", "--pull", "1", "--json", cwd=below)
    assert done.code == 0, done.err
    document = done.document
    assert sorted(document["written"]) == [".schema/profile.json", ".schema/recipe.json", "images/more.yaml"]
    assert sorted(document["kept"]) == [".gitignore", "profiles/smoke.yaml"]
    assert any("/dist/" in note for note in document["notes"])
    assert {path: path.read_bytes() for path in before} == before
    again = builder("init", "more", "--pull", "2", cwd=project)
    assert again.code == 2
    assert "not overwritten" in again.err
    assert load_recipe(project / "images/more.yaml").overlays[0].number == 1


def test_a_folder_of_pictures_and_another_repository_are_no_project(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/holiday.jpg").touch()
    below = tmp_path / "work"
    below.mkdir()
    assert builder("init", "mine", "--pull", "1", cwd=below).code == 0
    assert (below / "images/mine.yaml").is_file()
    other = below / "checkout"
    (other / ".git").mkdir(parents=True)
    assert builder("init", "mine", "--pull", "1", cwd=other).code == 0
    assert (other / "images/mine.yaml").is_file()
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["holiday.jpg"]


def test_profile_checkpoint_and_diff_are_taken(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "fix.diff").write_text("--- a/x\n+++ b/x\n")
    elsewhere = tmp_path / "card.yaml"
    elsewhere.write_text("name: serve\nflags: {max-model-len: 9}\n")
    done = builder(
        "init", "mine", "--file", "fix.diff", "--checkpoint", "ckpt", "--profile", "card.yaml", "--base", "wheel:vllm==0.20.0",
        "--package", "vllm", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    recipe = yaml.safe_load((tmp_path / "images/mine.yaml").read_text())
    assert recipe["overlays"] == [{"file": "fix.diff"}]
    assert recipe["checkpoint"] == {"path": "ckpt"}
    assert (tmp_path / "profiles/serve.yaml").read_text() == elsewhere.read_text()
    hub = builder(
        "init", "hub", "--pull", "1", "--checkpoint", "Qwen/Qwen3-0.6B@main", "--profile", "serve", cwd=tmp_path
    )
    assert hub.code == 0, hub.err
    assert load_recipe(tmp_path / "images/hub.yaml").checkpoint is not None
    elsewhere.write_text("name: serve\nflags: {max-model-len: 10}\n")
    other = builder("init", "other", "--pull", "1", "--profile", "card.yaml", cwd=tmp_path)
    assert other.code == 2
    assert "another one" in other.err
    assert not (tmp_path / "images/other.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine"], "name a pull request"),
        (["Mine!", "--pull", "1"], "lower-case letters"),
        (["../mine", "--pull", "1"], "lower-case letters"),
        (["", "--pull", "1"], "error: '' cannot be the name of a recipe"),
        (["../mine"], "error: '../mine' cannot be the name"),
        (["mine.lock", "--pull", "1"], "such as mine\n"),
        (["mine.yaml", "--pull", "1"], "such as mine\n"),
        (["mine", "--pull", "1", "--base", ""], "error: no recipe can have this: "),
        (["mine", "--pull", "1", "--checkpoint", ""], "there is no checkpoint ''"),
        (["mine", "--pull", "1", "--profile", ""], "there is no profile ''"),
        (["mine", "--pull", "gitlab.com/a/b/pull/1"], "a pull request of gitlab.com"),
        (["mine", "--file", "none.diff"], "there is no diff"),
        (["mine", "--pull", "1", "--checkpoint", "no such"], "there is no checkpoint"),
        (["mine", "--pull", "1", "--profile", "none"], "there is no profile"),
        (["mine", "--pull", "1", "--base", "oci:"], "names no folder"),
        (["mine", "--pull", "1", "--pull", "vllm-project/vllm#1"], "is repeated"),
    ],
)
def test_what_cannot_begin_writes_nothing(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = builder("init", *arguments, cwd=tmp_path)
    assert done.code == 2
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_list_says_how_far_each_recipe_is(tmp_path: Path) -> None:
    assert "builder init" in builder("list", cwd=tmp_path).out
    project = make_project(tmp_path, {})
    (project / "images/broken.yaml").write_text("name: [\n")

    def row(name: str) -> dict[str, str]:
        found = builder("list", "--json", cwd=project / "images").document["recipes"]
        return next(each for each in found if each["recipe"] == name)

    assert (row("small")["lock"], row("small")["image"]) == ("missing", "not built")
    assert "error" in row("broken")
    digest = builder("build", "small", "--engine", "oci", "--json", cwd=project).document["digest"]
    assert (row("small")["lock"], row("small")["image"]) == ("up to date", digest[:19])
    (project / "profiles/tiny.yaml").write_text("name: tiny\nflags: {max-model-len: 17}\n")
    assert row("small")["lock"] == "stale"
    assert "builder lock small" in row("small")["changed"]
    (project / "images/small.lock.yaml").write_text("")
    assert row("small")["lock"] == "unreadable"


def test_the_doctor_finds_what_is_missing_and_hides_names(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "patch").write_text("#!/bin/sh\necho 'patch 1.0'\n")
    (tools / "patch").chmod(0o755)
    done = builder("doctor", "--offline", "--json", cwd=project, env={"PATH": f"{tools}:/nowhere"})
    assert done.code == 2
    states = {each["name"]: each for each in done.document["findings"]}
    assert states["GNU patch"]["state"] == "problem"
    assert states["git"]["state"] == "note"
    assert "apt-get" in states["GNU patch"]["next"]
    secret = {
        "BUILDER_API_KEY": "sk-secret",
        "BUILDER_GITHUB_URL": "https://me:pw@github.example",
        "HF_TOKEN": "hf_secret",
    }
    report = builder("doctor", "--report", "--offline", cwd=project, env={**secret, "HOME": str(tmp_path.parent)})
    assert report.code == 0, report.err
    assert report.out.startswith("```text\nbuilder ")
    for hidden in ("sk-secret", "hf_secret", "me:pw", "pw@", str(tmp_path), str(tmp_path.parent)):
        assert hidden not in report.out
    quiet = builder("doctor", "-q", "--offline", cwd=project, env={"PATH": f"{tools}:/nowhere"})
    assert quiet.out == ""
    assert "GNU patch" in quiet.err


def test_the_doctor_asks_what_the_recipes_need(tmp_path: Path) -> None:
    project = make_project(tmp_path, {}, overlays=[{"pull": "a/b#1"}])
    nobody = "http://127.0.0.1:9"
    done = builder(
        "doctor", "small", "--json", cwd=project, env={"BUILDER_GITHUB_URL": nobody, "BUILDER_GITHUB_API_URL": nobody}
    )
    assert done.code == 5
    problems = [each["name"] for each in done.document["findings"] if each["state"] == "problem"]
    assert problems == ["GitHub's API", "GitHub"]
    broken = project / "images/small.yaml"
    broken.write_text("name: small\n")
    assert builder("doctor", "--offline", cwd=project).code == 2


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def test_every_command_has_examples_that_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = dict(commands(cli))
    assert EXAMPLES.keys() == {" ".join(words) for words in found}
    for words, command in found.items():
        for line in EXAMPLES[" ".join(words)]:
            inner = line.removeprefix('eval "$(').removesuffix(')"').split(" > ")[0].split(" | ")[0]
            arguments = shlex.split(inner)
            assert arguments[: len(words) + 1] == ["builder", *words]
            command.make_context(words[-1], arguments[len(words) + 1 :], obj=None)
            assert run([*words, "--help"]) == 0
            assert line in capsys.readouterr().out


def test_help_is_what_the_option_prints(tmp_path: Path) -> None:
    assert (
        builder("help", "profile", "lint", cwd=tmp_path).out == builder("profile", "lint", "--help", cwd=tmp_path).out
    )
    assert builder("help", cwd=tmp_path).out == builder("--help", cwd=tmp_path).out
    wrong = builder("help", "profile", "lnit", cwd=tmp_path)
    assert wrong.code == 2
    assert "lint" in wrong.err


COMPLETIONS = [
    ("builder che", "check"),
    ("builder check sm", "small"),
    ("builder run small ti", "tiny"),
    ("builder profile show ti", "tiny"),
    ("builder profile fit small tiny --gpu rtx-50", "rtx-5090"),
    ("builder lock small --update overlays/on", "overlays/one.diff"),
    ("builder build small --eng", "--engine"),
]


@pytest.mark.parametrize(("line", "wanted"), COMPLETIONS)
def test_a_shell_completes_names(tmp_path: Path, line: str, wanted: str) -> None:
    project = make_project(tmp_path, {"one.diff": b""})
    words = line.split()
    env = {"_BUILDER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = builder(cwd=project, env=env)
    assert wanted in [each.partition(",")[2] for each in done.out.splitlines()], done.err


def test_bash_takes_the_script_and_completes(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    script = builder("completion", "bash", cwd=project).out
    program = tmp_path / "bin/builder"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m builder "$@"\n')
    program.chmod(0o755)
    (tmp_path / "script").write_text(script)
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c",
         'source ./script; COMP_WORDS=(builder check sm); COMP_CWORD=2; _builder_completion builder sm check; echo "${COMPREPLY[@]}"'],
        cwd=project, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.split() == ["small"], done.stderr
    for shell in ("zsh", "fish"):
        assert "_BUILDER_COMPLETE" in builder("completion", shell, cwd=project).out


def test_a_pull_request_may_be_named_in_any_way_in_a_recipe(tmp_path: Path) -> None:
    """Every spelling is the same recipe, so the lock does not depend on it."""
    head = "ab" * 20
    digests = set()
    for pull in (
        "39931",
        '"#39931"',
        "vllm-project/vllm#39931",
        "https://github.com/vllm-project/vllm/pull/39931/files",
    ):
        path = tmp_path / "x.yaml"
        origin = "https://github.com/a/b/pull/7" if pull.startswith("https") else "a/b#7"
        path.write_text(
            f"name: x\nbase: wheel:vllm==0.20.0\noverlays:\n- pull: {pull}\n- {{file: x.diff, origin: '{origin}@{head}'}}\n"
        )
        recipe = load_recipe(path)
        assert (recipe.overlays[0].repository, recipe.overlays[0].number) == ("vllm-project/vllm", 39931)
        assert recipe.overlays[1].origin == f"a/b#7@{head}"
        digests.add(recipe.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("named", ["7", "#7", "a/b#7", "https://github.com/a/b/pull/7"])
def test_an_update_takes_every_name_of_an_overlay(tmp_path: Path, named: str) -> None:
    project = make_project(tmp_path, {}, overlays=[{"pull": "a/b#7"}, {"pull": "c/d#8"}])
    done = builder("lock", "small", "--update", named, "--offline", cwd=project)
    assert "has no overlay" not in done.err
    wrong = builder("lock", "small", "--update", "9", "--offline", cwd=project)
    assert "small has no overlay 'vllm-project/vllm#9'" in wrong.err
