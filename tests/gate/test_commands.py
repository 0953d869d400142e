"""The commands: `gate` with its default, `gate lint` and `gate import`, `verdict show` and `verdict adr`, `schema gate`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.cli.app import run as command
from builder.documents.verdict import Verdict
from builder.release.attest.signing import KeySigning
from tests.support.chatserver import ChatServer, chatting, prompt_of
from tests.support.cli import builder
from tests.support.signing import key_pair
from tests.support.suites import row, say, write_suite

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command line in this process, in a folder with two suites; its exit code and what it printed."""
    write_suite(tmp_path, [row(f"r{number}", legal=True) for number in range(4)], name="good")
    write_suite(tmp_path, [row(f"r{number}", legal=False) for number in range(4)], name="bad")
    (tmp_path / "gates/folder.yaml").mkdir()
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = command(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_two_suites_and_what_reads_their_verdicts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_API_KEY", "sk-very-secret")
    with chatting(lambda _s, _b, _h: say(legal=True)) as server:
        code, out, err = run("gate", server.url, "--suite", "good", "--suite", "bad", "--gpu", "rtx-5090")
        assert code == 6
        assert "error: bad: FAILED" in err
        assert "bad/agreement-min  0/4 = 0.0000 (95 % 0.000 to 0.490); wanted at least 0.5" in err
        code, out, err = run("gate", "--suite", "good", f"{server.url}/v1", "--json")
        assert code == 0, err
        assert {key.lower(): value for key, value in server.headers[0].items()}[
            "authorization"
        ] == "Bearer sk-very-secret"
    found = json.loads(out)["verdicts"][0]
    assert (found["result"], found["bound"], found["images"]) == ("PASSED", False, [])
    verdicts = {path: Verdict.parse(path.read_bytes()) for path in (tmp_path / "dist/gate").glob("*.json")}
    assert sorted(each.result for each in verdicts.values()) == ["FAILED", "PASSED", "PASSED"]
    assert {each.gpu for each in verdicts.values()} == {"rtx-5090", None}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()
    failed = next(str(path) for path, each in verdicts.items() if each.result == "FAILED")

    code, out, _ = run("verdict", "show", failed)
    assert code == 0
    for text in ("bad: FAILED (unbound)", "signed   unsigned", "age      0 days", "expires in 89 days", "answered 4"):
        assert text in out
    code, out, _ = run("verdict", "show", failed, "--json", "--html", "again.html")
    assert json.loads(out)["verdicts"][0]["signed"] == {"state": "unsigned"}
    assert "ask r0" in (tmp_path / "again.html").read_text()
    assert run("verdict", "show", failed, "--html", "again.html", "--redact")[0] == 0
    assert "ask r0" not in (tmp_path / "again.html").read_text()
    code, out, _ = run("verdict", "adr", failed)
    assert code == 0
    assert "## Decision Outcome" in out
    assert run("verdict", "adr", failed, "--output", "docs/adr.md")[0] == 0
    assert (tmp_path / "docs/adr.md").read_text().startswith("---\nstatus: rejected\n")


def test_a_bundle_is_checked_when_its_signer_is_named(run: Run, tmp_path: Path) -> None:
    with chatting(lambda _s, _b, _h: say(legal=True)) as server:
        assert run("gate", server.url, "--suite", "good")[0] == 0
    private, public = key_pair(tmp_path / "team")
    data = KeySigning(private).sign(next((tmp_path / "dist/gate").glob("*.json")).read_bytes())
    (tmp_path / "bundle.json").write_bytes(data)
    assert "signature not checked" in run("verdict", "show", "bundle.json")[1]
    code, out, _ = run("verdict", "show", "bundle.json", "--signer", str(public), "--json")
    assert code == 0
    assert json.loads(out)["verdicts"][0]["signed"]["state"] == "verified"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("gate", "http://127.0.0.1:1", "--suite", "goood"), 2, "did you mean good?"),
        (("gate", "http://127.0.0.1:1"), 2, "Missing option '--suite'"),
        (("gate", "http://127.0.0.1:1", "--suite", "good", "--limit", "0.2"), 5, "the server is not healthy"),
        (("gate", "http://127.0.0.1:1", "--suite", "good", "--image", "x"), 2, "takes no arguments"),
        (("gate", "http://127.0.0.1:1", "--suite", "good", "--attest", "x/y"), 2, "can never be attached"),
        (("gate", "http://127.0.0.1:1", "--suite", "good", "--keyless"), 2, "sign what --attest attaches"),
        (("gate", "http://127.0.0.1:1", "--suite", "good", "--suite", "good"), 2, "--suite good is repeated"),
        (
            ("gate", "http://127.0.0.1:1", "--suite", "good", "--reference", "ftp://x"),
            2,
            "is not the address of a server",
        ),
        (("gate", "http://127.0.0.1:1", "--suite", "gates"), 2, "there is no suite 'gates'"),
        (("gate", "lint", "folder"), 2, "gates/folder.yaml is not a regular file"),
        (("gate", "small", "--suite", "good"), 2, "which profile?"),
        (("gate", "small", "smoke", "--suite", "good"), 2, "there is no recipe 'small'"),
        (("gate", "http://x", "--suite", "good", "--resume", "--restart"), 2, "exclude each other"),
        (("gate", "lint", "nothing"), 2, "there is no suite 'nothing'"),
        (("verdict", "show", "gates/good.yaml"), 2, "is not a verdict"),
        (("verdict", "adr", "absent.json"), 2, "cannot read absent.json"),
        (("gate", "import", "inspect", "absent.eval", "--suite", "good"), 2, "is not a log of inspect"),
    ],
)
def test_wrong_input(run: Run, arguments: tuple[str, ...], code: int, says: str) -> None:
    found, _, err = run(*arguments)
    assert (found, says in err) == (code, True), err


SECRET = "the patient is called Newman"


def private(server: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
    """Every response repeats the prompt: a row in an error, others in answers that cannot be read."""
    if prompt_of(body).endswith("0"):
        server.say(handler, {"error": {"message": f"cannot read: {prompt_of(body)}", "code": 500}}, 500)
        return None
    return prompt_of(body)


def files_with(text: str, folder: Path) -> set[str]:
    """The first two parts of the paths below `folder` that have a text; logs, which are zips of zstd, by what is in them."""
    from inspect_ai.log import read_eval_log

    found = set()
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        if path.suffix == ".eval":
            data = read_eval_log(str(path)).model_dump_json().encode()
        if text.encode() in data:
            found.add("/".join(path.relative_to(folder).parts[:2]))
    return found


def test_redacted_results_can_be_shared_and_what_cannot_is_named(run: Run, tmp_path: Path) -> None:
    rows = [{**row(f"r{number}", legal=True), "messages": [{"role": "user", "content": f"{SECRET} {number}"}]} for number in range(4)]  # fmt: skip
    write_suite(tmp_path, rows, name="good", limits={"total_tokens": 15, "connections": 1})
    (tmp_path / "home").mkdir()
    with chatting(private) as server:
        words = ("gate", server.url, "--suite", "good", "--output", "out")
        # A process of its own: inspect-ai opens its trace in the home folder once in each.
        env = {"HOME": str(tmp_path / "home"), "XDG_DATA_HOME": str(tmp_path / "home/data")}
        first = builder(*words, "--redact", cwd=tmp_path, env=env)
        assert first.code == 6 and "the run is incomplete" in first.err
        assert "out.private/good.run has prompts and answers; remove it with: rm -r out.private/good.run" in first.err
        assert files_with("Newman", tmp_path) == {"gates/good.jsonl", "out.private/good.run"}
        code, _, err = run(*words)
        assert code == 2 and "was begun with --redact" in err and "go on with --redact" in err
        for _ in range(4):
            code, out, err = run(*words, "--redact")
            if "incomplete" not in err:
                break
    assert code == 6 and "good: FAILED" in err
    (kept,) = (tmp_path / "out.private").iterdir()
    assert f"out.private/{kept.name} has prompts and answers; remove it with: rm -r out.private/{kept.name}" in err
    assert files_with("Newman", tmp_path) == {"gates/good.jsonl", f"out.private/{kept.name}"}
    assert "Newman" not in out + err


def test_a_run_with_open_rows_is_not_gone_on_with_as_a_redacted_one(run: Run, tmp_path: Path) -> None:
    write_suite(
        tmp_path, [row(f"r{number}", legal=True) for number in range(4)], name="good", limits={"total_tokens": 15, "connections": 1}
    )  # fmt: skip
    with chatting(lambda _s, _b, _h: say(legal=True)) as server:
        words = ("gate", server.url, "--suite", "good", "--output", "out")
        assert run(*words)[0] == 6
        code, _, err = run(*words, "--redact")
        assert code == 2 and "was begun without --redact" in err
        assert run(*words, "--redact", "--restart")[0] == 6
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []
    assert [path.name for path in (tmp_path / "out.private").iterdir()] == ["good.run"]


def test_lint_and_schema(run: Run) -> None:
    code, out, err = run("gate", "lint", "good", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["rows"], document["labels"]) == (4, {"legal": {"true": 4}})
    assert "agreement has a denominator of 4: its interval is wide" in err
    code, out, _ = run("gate", "lint", "good")
    assert "2 of 4 at least, which is 0.5000" in out
    assert json.loads(run("schema", "gate")[1])["$id"].endswith("/gate.v1.json")


def test_rows_that_are_missing_are_known_before_a_server_is_asked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gates/good.jsonl").unlink()
    asked: list[Any] = []
    with chatting(lambda _s, _b, _h: asked.append(1) or say(legal=True)) as server:  # type: ignore[func-returns-value]
        code, _, err = run("gate", server.url, "--suite", "good")
    assert (code, asked) == (2, [])
    assert "the rows of good are missing" in err
