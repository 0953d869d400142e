"""From a finished run to its files: the verdict, the rows, the page, the logs."""

from __future__ import annotations

import json
import platform
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from builder import __version__
from builder.documents.verdict import (
    Details,
    ImageIdentity,
    Judged,
    Reference,
    Resource,
    Suite,
    Verdict,
    expiry,
    written,
)
from builder.gate.compare import compare
from builder.gate.engine import inspect_version
from builder.gate.metrics import Figures
from builder.gate.page import page
from builder.gate.requirements import check
from builder.gate.results import result_lines
from builder.gate.run import Run
from builder.gate.state import RunState, private_folder
from builder.gate.suite import LoadedSuite
from builder.util.files import file_sha256, sha256, write_file


@dataclass(frozen=True)
class Written:
    """A verdict, and where its files are."""

    verdict: Verdict
    json: Path
    html: Path
    rows: Path
    logs: Path | None = None
    reference: Path | None = None
    private: Path | None = None
    """What has prompts and answers, when no other file has them."""

    def paths(self) -> dict[str, str]:
        found = {
            "json": self.json,
            "html": self.html,
            "rows": self.rows,
            "logs": self.logs,
            "reference": self.reference,
        }
        return {key: str(path) for key, path in found.items() if path is not None}


def write_run(run: Run, output: Path, *, redact: bool) -> Written:
    """Write everything of a run, the verdict last: where there is a verdict, the rest is whole.

    With `redact` the logs go beside `output`: what is in `output` has ids and hashes of the rows only.
    """
    stem = _stem(run.loaded.name, run.served.image, run.ended, output)
    rows = result_lines(run.ours, run.theirs, run.tokens, redact=redact)
    shown = [json.loads(line) for line in result_lines(run.ours, run.theirs, run.tokens, redact=False).splitlines()]
    output.mkdir(parents=True, exist_ok=True)
    write_file(output / f"{stem}.rows.jsonl", rows)
    configuration = [*_documents(run.loaded, run.rows.sha256, run.schema), *run.about.configuration]
    logs = _log_resources(run)
    results = Resource(name="results", sha256=sha256(rows))
    reference, other = None, None
    if run.theirs is not None and run.reference is not None:
        confidences = {
            each.metric: each.confidence for each in run.loaded.suite.require if each.metric and each.not_worse_than
        }
        reference = compare(run.ours, run.theirs, confidences, target=str(run.urls[1]), model=run.reference.model)
        theirs = _verdict(run, run.theirs, None, (*configuration, results, *logs), side=1)
        other = output / f"{stem}.reference.json"
        data = theirs.statement()
        write_file(other, data)
        configuration.append(Resource(name="reference verdict", sha256=sha256(data)))
    verdict = _verdict(run, run.ours, reference, (*configuration, results, *logs), side=0)
    paths = write_verdict(verdict, output / stem, shown, redact=redact)
    kept = _keep_logs(run.state, (private_folder(output) if redact else output) / f"{stem}.logs")
    return replace(paths, logs=kept, reference=other, private=kept if redact else None)


def _log_resources(run: Run) -> list[Resource]:
    """The logs that the figures come from, one for each session of the run."""
    several = len(run.logs) > 1
    return [
        Resource(name=f"{run.log_kind} log {number}" if several else f"{run.log_kind} log", sha256=file_sha256(path))
        for number, path in enumerate(run.logs, 1)
    ]


def _keep_logs(state: RunState | None, place: Path) -> Path | None:
    """The run is finished: its logs go beside the verdict, and nobody goes on with it."""
    if state is None:
        return None
    state.logs.mkdir(exist_ok=True)
    state.logs.rename(place)
    shutil.rmtree(state.folder)
    return place


def write_verdict(
    verdict: Verdict, stem: Path, results: Sequence[Mapping[str, Any]], *, redact: bool = False
) -> Written:
    """The page, then the verdict, beside the rows."""
    html, document = stem.with_name(f"{stem.name}.html"), stem.with_name(f"{stem.name}.json")
    write_file(html, page(verdict, results, redact=redact).encode())
    write_file(document, verdict.statement())
    return Written(verdict, document, html, stem.with_name(f"{stem.name}.rows.jsonl"))


def _stem(suite: str, image: ImageIdentity | None, ended: datetime, output: Path) -> str:
    """The time is in the name, so that a later run never takes an earlier one's place."""
    digest = image.digest.removeprefix("sha256:")[:12] if image else "server"
    stem = f"{suite}-{digest}-{written(ended).replace('-', '').replace(':', '')}"
    name, count = stem, 1
    while any(output.glob(f"{name}.*")):
        count += 1
        name = f"{stem}~{count}"
    return name


def _documents(loaded: LoadedSuite, rows: str, schema: bytes | None) -> list[Resource]:
    found = [Resource(name="suite", sha256=loaded.sha256), Resource(name="rows", sha256=rows)]
    return [*found, *([Resource(name="answer schema", sha256=sha256(schema))] if schema is not None else [])]


def _verdict(
    run: Run, figures: Figures, reference: Reference | None, configuration: tuple[Resource, ...], *, side: int
) -> Verdict:
    """The verdict of one side: 0 is ours, 1 the reference, which is never bound."""
    served, about = (run.served, run.about) if side == 0 else (run.reference, None)
    assert served is not None  # noqa: S101  a side that was run
    profile = about.profile if about is not None else None
    gpu = about.gpu if about is not None else None
    details = Details(
        kind=run.kind, bound=served.image is not None, suite=Suite(name=run.loaded.name, sha256=run.loaded.sha256),
        target=str(run.urls[side]), recipe=about.recipe if about else None, profile=profile.name if profile else None,
        flags=about.flags if about else (), command=about.command if about else None, image=served.image,
        gpu=gpu.short if gpu else None, gpu_name=gpu.name if gpu else None, driver=gpu.driver if gpu else None,
        vllm=served.version, model=served.model, max_model_len=served.max_model_len,
        envelope=profile.envelope if profile else None, begun=written(run.begun), ended=written(run.ended),
        expires=written(expiry(run.ended, run.loaded.suite.valid_days)),
        seconds=round((run.ended - run.begun).total_seconds(), 3), tools=tools(),
        figures=_figures(figures), rows=len(run.rows), buckets=dict(figures.buckets), metrics=tuple(figures.metrics.values()),
        reference=reference, repeats=figures.repeats,
        tests=_tests(run.loaded, figures, reference, side), notes=run.notes,
    )  # fmt: skip
    return Verdict(subject=subject(details.image, configuration), configuration=configuration, details=details)


def _tests(loaded: LoadedSuite, figures: Figures, reference: Reference | None, side: int) -> tuple[Judged, ...]:
    found = check(loaded.suite, figures, reference)
    # The reference is not compared with itself.
    return found if side == 0 else tuple(each for each in found if not each.name.endswith("-not-worse")) or found


def subject(image: ImageIdentity | None, configuration: Sequence[Resource]) -> tuple[Resource, ...]:
    """The image and its index; an unbound verdict is about the rows with their outcomes instead."""
    if image is None:
        return (Resource(name="results", sha256=next(each.sha256 for each in configuration if each.name == "results")),)
    digests = [image.digest, *([image.index] if image.index and image.index != image.digest else [])]
    return tuple(Resource(name=image.reference, sha256=each.removeprefix("sha256:")) for each in digests)


def tools() -> dict[str, str]:
    """The versions of what measured."""
    return {
        "overlay-image-builder": __version__, "inspect-ai": inspect_version(), "python": platform.python_version(),
    }  # fmt: skip


def _figures(figures: Figures) -> dict[str, int | float | str]:
    replies = [reply for each in figures.judged for reply in each.replies]
    seconds = sorted(each.seconds for each in replies if each.seconds is not None)
    found: dict[str, int | float | str] = {
        "prompt_tokens": sum(each.prompt_tokens or 0 for each in replies),
        "completion_tokens": sum(each.completion_tokens or 0 for each in replies),
    }
    if seconds:
        found["seconds_median"] = round(statistics.median(seconds), 4)
        found["seconds_p95"] = seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))]
    return found
