"""Runs that end early: killed, interrupted, on a full disk. The same command goes on, and any end gives the same verdict but for times."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.documents.verdict import Verdict
from builder.gate.assemble import write_run
from builder.util.errors import GateError, InputError
from tests.support.chatserver import ChatServer, chatting, prompt_of
from tests.support.services import leave_out, require_root
from tests.support.suites import row, run, say, write_suite

ROWS = [row(f"r{number:02}", legal=number % 2 == 0) for number in range(12)]
REPOSITORY = Path(__file__).parents[2]


def answer(_server: ChatServer, body: Mapping[str, Any], _handler: Any) -> str:
    return say(legal=int(prompt_of(body)[-2:]) % 3 != 1)


def figures(data: bytes) -> dict[str, Any]:
    """A verdict without what a time, an address or a log decides."""
    verdict = Verdict.parse(data)
    details = verdict.details.model_dump(exclude={"begun", "ended", "expires", "seconds", "target", "figures"})
    return {**details, "configuration": [each for each in verdict.configuration if each.name in ("suite", "rows")]}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a run that nobody disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    suite = write_suite(root, ROWS)
    with chatting(answer) as server:
        written = write_run(run(root, suite, server), root / "dist/gate", redact=False)
    return figures(written.json.read_bytes())


def ended_at(step: int, number: int, root: Path, server: ChatServer) -> subprocess.Popen[bytes]:
    """`builder gate`, sent the signal `number` when the server is asked for the `step`th time."""
    process: list[subprocess.Popen[bytes]] = []

    def script(chat: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
        if len(chat.asked) == step:
            process[0].send_signal(number)
            chat.over.wait(20)
            return None
        return answer(chat, body, handler)

    server.script = script
    process.append(
        subprocess.Popen(
            [sys.executable, "-m", "builder", "gate", server.url, "--suite", "small"], cwd=root, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    )  # fmt: skip
    return process[0]


@pytest.mark.parametrize(
    ("step", "number"), [(1, signal.SIGKILL), (7, signal.SIGKILL), (12, signal.SIGKILL), (7, signal.SIGINT)]
)
def test_any_end_gives_the_same_verdict(
    tmp_path: Path, wanted: dict[str, Any], step: int, number: signal.Signals
) -> None:
    suite = write_suite(tmp_path, ROWS, limits={"attempt_seconds": 60, "tries": 2, "connections": 1})
    with chatting(answer) as server:
        process = ended_at(step, number, tmp_path, server)
        out, err = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), err.decode()
        assert b"Traceback" not in out + err
        assert not list((tmp_path / "dist/gate").glob("*.json"))
        server.script = answer
        before = len(server.asked)
        written = write_run(run(tmp_path, suite, server), tmp_path / "dist/gate", redact=False)
        again = len(server.asked) - before
    found = figures(written.json.read_bytes())
    assert {**found, "suite": 0, "configuration": 0} == {**wanted, "suite": 0, "configuration": 0}
    # With one connection an answer is in the log before the next row is asked, or, at worst, while it is.
    assert again - (len(ROWS) - (step - 1)) in (0, 1)


def test_another_identity_is_refused_and_both_are_named(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ROWS, limits={"total_tokens": 30, "connections": 1})
    with chatting(answer) as server:
        with pytest.raises(Exception, match="incomplete"):
            run(tmp_path, suite, server)
        edited = [*ROWS[:-1], row("r99", legal=True)]
        other = write_suite(tmp_path, edited, limits={"total_tokens": 30, "connections": 1})
        with pytest.raises(InputError, match="is another one") as caught:
            run(tmp_path, other, server)
        labels = dict(caught.value.details)
        assert len(labels["here"]) == len(labels["wanted"]) == 64
        assert labels["rows"].startswith("here ")
        assert "suite" not in labels
        assert caught.value.hint == "begin anew with --restart, or name another --output"
        assert run(tmp_path, write_suite(tmp_path, edited), server, restart=True).ours.buckets["answered"] == 12


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"identity": 1}'])
def test_a_run_that_cannot_be_read_is_refused(tmp_path: Path, damage: bytes) -> None:
    suite = write_suite(tmp_path, ROWS)
    folder = tmp_path / "dist/gate/small.run"
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(damage)
    with chatting(answer) as server, pytest.raises(InputError, match="does not describe a run"):
        run(tmp_path, suite, server)


def test_a_log_that_was_truncated_is_asked_again(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ROWS, limits={"total_tokens": 45, "connections": 1})
    with chatting(answer) as server:
        with pytest.raises(Exception, match="incomplete"):
            run(tmp_path, suite, server)
        log = next((tmp_path / "dist/gate").rglob("*.eval"))
        log.write_bytes(log.read_bytes()[:-100])
        suite = write_suite(tmp_path, ROWS, limits={"total_tokens": 45, "connections": 1})
        for _ in range(4):
            try:
                found = run(tmp_path, suite, server)
            except GateError as error:
                assert "incomplete" in str(error)
            else:
                break
        assert found.ours.buckets["answered"] == 12
        assert len(server.asked) == 15


@pytest.mark.parametrize("size", ["16k", "64k"])
def test_a_full_disk_gives_no_verdict(tmp_path: Path, size: str) -> None:
    require_root()
    write_suite(tmp_path, [row(f"r{number:02}", legal=True) for number in range(30)])
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(out)], capture_output=True, check=False
    )
    if done.returncode:
        leave_out("needs mount")
    try:
        with chatting(lambda _s, _b, _h: say(legal=True)) as server:
            found = subprocess.run(
                [sys.executable, "-m", "builder", "gate", server.url, "--suite", "small", "--output", "out", "--json"], cwd=tmp_path,
                capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )  # fmt: skip
        assert found.returncode == 2, found.stderr
        assert "No space left on device" in found.stderr
        assert json.loads(found.stdout)["error"]["exit_code"] == 2
        assert [path.name for path in out.iterdir()] == ["small.run"]
    finally:
        subprocess.run(["umount", str(out)], check=True)
