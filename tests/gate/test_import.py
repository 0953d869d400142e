"""Logs that others have made: judged by the suite, unbound, and refused when they are about other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai import eval as run_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from inspect_ai.solver import generate

from builder.documents.verdict import Verdict
from builder.gate.assemble import write_run
from builder.gate.importing import image_of, import_log
from builder.util.errors import InputError
from tests.support.chatserver import chatting, hang_up, prompt_of
from tests.support.suites import row, say, write_suite

IMAGE = "registry.test/team/image@sha256:" + "a" * 64
ROWS = [row(f"r{number}", legal=True) for number in range(6)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inspect log over five of six rows, one of them with an error; its metadata names an image."""
    folder = tmp_path_factory.mktemp("inspect")
    samples = [Sample(id=each["id"], input=[ChatMessageUser(content=f"ask {each['id']}")]) for each in ROWS[:5]]
    with chatting(lambda _s, body, handler: hang_up(handler) if prompt_of(body).endswith("4") else say(legal=not prompt_of(body).endswith("3"))) as server:  # fmt: skip
        model = get_model(
            "openai-api/gate/tiny", base_url=f"{server.url}/v1", api_key="none", memoize=False, max_retries=0,
            config=GenerateConfig(max_retries=0),
        )  # fmt: skip
        run_eval(
            Task(dataset=MemoryDataset(samples), solver=generate(), name="theirs"), model=model, display="none", log_dir=str(folder),
            fail_on_error=False, score=False, metadata={"image": IMAGE}, log_level="critical", ctl_server=False, acp_server=False,
        )  # fmt: skip
    return next(folder.glob("*.eval"))


def test_a_log_of_inspect(tmp_path: Path, log: Path) -> None:
    suite = write_suite(tmp_path, ROWS)
    written = write_run(import_log("inspect", log, suite), tmp_path / "out", redact=False)
    verdict = Verdict.parse(written.json.read_bytes())
    details = verdict.details
    assert (details.kind, verdict.bound, verdict.image_digests) == ("import", True, ("sha256:" + "a" * 64,))
    # The row with an error and the row that is not in the log are in the denominator.
    assert (details.metrics[0].numerator, details.metrics[0].denominator) == (3, 6)
    assert (details.buckets["answered"], details.buckets["transport"]) == (4, 2)
    assert written.logs is None
    assert verdict.config("inspect log") is not None


def samples_file(path: Path, **changes: Any) -> Path:
    """As lm_eval 0.4 writes it with --log_samples."""
    lines = []
    for number, each in enumerate(ROWS):
        line = {
            "doc_id": number, "doc": {"id": each["id"]}, "target": "x", "filtered_resps": ["x"],
            "arguments": {"gen_args_0": {"arg_0": json.dumps(each["messages"]), "arg_1": {"until": []}}},
            "resps": [[say(legal=number < 4)]], **changes,
        }  # fmt: skip
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_samples_of_lm_eval(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ROWS)
    run = import_log("lm-eval", samples_file(tmp_path / "samples_x.jsonl"), suite)
    verdict = Verdict.parse(write_run(run, tmp_path / "out", redact=False).json.read_bytes())
    assert (verdict.bound, verdict.result) == (False, "PASSED")
    assert (verdict.details.metrics[0].numerator, verdict.details.metrics[0].denominator) == (4, 6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"doc": {"id": "r9"}}, "rows that the suite does not have"),
        ({"arguments": [["another prompt", {}]]}, "was asked something else than the suite's row"),
        ({"resps": 3}, "is not a samples file"),
        ({"resps": "yes"}, "is not a samples file"),
        ({"resps": [[[-1.5, False]]]}, "is not a samples file"),
        ({"resps": [[None]]}, "is not a samples file"),
        ({"resps": []}, "has no responses to the rows of small"),
    ],
)
def test_a_log_of_other_rows_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    suite = write_suite(tmp_path, ROWS)
    with pytest.raises(InputError, match=says):
        import_log("lm-eval", samples_file(tmp_path / "samples_x.jsonl", **change), suite)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"{}", b"[" * 9999])
def test_what_is_no_log_is_refused(tmp_path: Path, data: bytes) -> None:
    suite = write_suite(tmp_path, ROWS)
    path = tmp_path / "x.eval"
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not a log of inspect"):
        import_log("inspect", path, suite)
    with pytest.raises(InputError, match="is not a samples file" if data else "has no responses"):
        import_log("lm-eval", path, suite)


@pytest.mark.parametrize(
    "named", ["x@sha256:abc", "@sha256:" + "a" * 64, "a b@sha256:" + "a" * 64, "x@sha256:" + "A" * 64]
)
def test_an_image_that_is_none_is_refused(named: str) -> None:
    with pytest.raises(InputError, match="names an image that is not one"):
        image_of(named)
    assert image_of("ubuntu") is None
    found = image_of(IMAGE)
    assert found is not None and IMAGE.endswith(found.digest)
