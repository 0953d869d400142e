"""Local input is read and judged before anybody is asked: with nobody to ask, the error is about the input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import builder
from tests.support.smallwheel import make_project
from tests.support.verdicts import verdict_of

NOBODY = "127.0.0.1:9/a/b"
SIGNED = ("--keyless", "--trust-config", "none.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose base is in a registry that does not respond, and documents."""
    root = make_project(tmp_path_factory.mktemp("order"), {}, base=f"{NOBODY}:c")
    verdict_of(root / "unbound.json", None)
    verdict_of(root / "failed.json", f"sha256:{'ab' * 32}", outcome="failed")
    (root / "bad.json").write_text("{")
    (root / "text.json").write_text('{"a": 1}')
    return root


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["attest", "none.json", "--image", NOBODY, *SIGNED], 2, "cannot read none.json"),
        (["attest", "bad.json", "--image", NOBODY, *SIGNED], 2, "bad.json is not valid JSON"),
        (["attest", "text.json", "--image", NOBODY, *SIGNED], 2, "text.json is not an in-toto statement"),
        (["attest", "unbound.json", "--image", NOBODY, *SIGNED], 2, "unbound.json is unbound"),
        (["attest", "failed.json", "--image", "A//b", *SIGNED], 2, "'A//b' is not an image reference"),
        (["verify", "bad.json"], 2, "skopeo copy oci-archive:bad.json oci:DIR"),
        (["verify", "oci:bad.json"], 2, "bad.json is a file"),
        (["verify", "./none"], 2, "there is no folder ./none"),
        (["profile", "import", "vllm serve x"], 2, "given with --from-command"),
        (["profile", "show", "none/none.yaml"], 2, "none has no profiles"),
        (["deploy", "promoted", "small", "."], 2, "small.lock.yaml does not exist"),
        (["verdict", "show", "none.json"], 2, "there is no file none.json"),
        (["verdict", "show", NOBODY, "--html", "x.html"], 2, "--html belongs to a FILE"),
        (["promote", NOBODY, "--to", "x", "--require", "none", "--allow-unsigned", *SIGNED], 2, "no suite 'none'"),
        (["promote", NOBODY, "--to", "inputs-0123456789ab", "--require", "a", "--allow-unsigned", *SIGNED], 2, "never promoted"),
        (["publish", "small", "--to", NOBODY, "--verdict", "none.json", "--sign"], 2, "cannot read none.json"),
        (["publish", "small", "--to", NOBODY, "--verdict", "failed.json", "--tag", "x", "--sign"], 6, "x cannot move"),
        (["publish", "small", "--to", "127.0.0.1:9"], 2, "names a registry and no repository"),
        (["publish", "small", "--to", NOBODY, "--tag", "x y"], 2, "error: 'x y' is not a tag"),
        (["promote", NOBODY, "--to", "x y", "--require", "a", "--allow-unsigned"], 2, "error: 'x y' is not a tag"),
        (["publish", "images/small.lock.yaml", "--to", NOBODY], 2, "only locks are named"),
        (["render", "images/small.lock.yaml", "--output", "x"], 2, "only locks are named"),
        (["publish", "small", "--sign"], 2, "where should small go?"),
    ],
)  # fmt: skip
def test_local_input_comes_first(folder: Path, arguments: list[str], code: int, words: str) -> None:
    done = builder(*arguments, cwd=folder)
    assert (done.code, words in done.err) == (code, True), done.err


def test_a_base_that_cannot_be_published_is_refused_before_it_is_locked(tmp_path: Path) -> None:
    project = make_project(tmp_path, {})
    done = builder("publish", "small", "--to", NOBODY, cwd=project)
    assert (done.code, "a wheel: base cannot be published" in done.err) == (2, True), done.err
    assert not (project / "images/small.lock.yaml").exists()
