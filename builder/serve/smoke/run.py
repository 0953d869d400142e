"""A smoke run: wait for the server, then every check, each with its own outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from builder.documents.profile import Profile
from builder.documents.verdict import Resource, written
from builder.serve.smoke.checks import concurrency, determinism, reasoning, tools
from builder.serve.smoke.checks.log import check_fatal, check_figures, expectation_for
from builder.serve.smoke.client import Server, UnansweredError
from builder.serve.smoke.gpu import Gpu
from builder.serve.smoke.prompts import SHORT_ANSWER, SHORT_PROMPT, TOGETHER
from builder.serve.smoke.result import Check, SmokeResult, failed, not_checked, passed
from builder.serve.smoke.subject import Subject
from builder.serve.smoke.view import View
from builder.serve.startup_log import PHASES, StartupLog
from builder.util.context import Context

_POLL_SECONDS = 0.25
# A start that has failed is read on until its log says nothing new for this long: the cause comes with the last process.
_QUIET_SECONDS = 5.0
_HEALTH = "healthy in time"
# Thoughts and an answer, on a server whose max-model-len is not known to be larger.
_LONG_ANSWER = 2048


@dataclass(frozen=True)
class Wanted:
    """What a run is told: the profile, the limit of the start in seconds, and the short prompt with its answer.

    `gpu` names the GPU when nothing can be asked for it; `vllm` is the version in the lock. `changed` has the overlays that
    change a file, by its path from the package's folder: where a start fails in one of them, they are named.
    """

    profile: Profile | None = None
    recipe: str | None = None
    limit: float = 600
    gpu: str | None = None
    vllm: str | None = None
    changed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    configuration: tuple[Resource, ...] = ()
    """Profile, lock and checkpoint, for the verdict."""
    prompt: str = SHORT_PROMPT
    answer: str = SHORT_ANSWER


@dataclass
class Start:
    """How the start went."""

    check: Check
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        return self.check.status == "passed"


def smoke(
    subject: Subject, server: Server, wanted: Wanted, *, view: AbstractContextManager[View], context: Context
) -> SmokeResult:
    """Run all checks. Nothing is raised for a server that misbehaves: the result says so."""
    begun, clock = datetime.now(UTC), time.monotonic()
    # Asked first as well: a container that ends can no longer say what GPU it had.
    early = subject.gpu()
    start = wait_for_start(subject, server, wanted, view)
    _say(context, start.check)
    gpu = subject.gpu() or early
    if wanted.gpu is not None:
        gpu = replace(gpu, short=wanted.gpu) if gpu else _named(wanted.gpu)
    free = gpu.free_gib if gpu and gpu.free_gib >= 0 and start.healthy else None
    log = subject.log()
    vllm = (log.vllm if log else None) or (server.version() if start.healthy else None) or wanted.vllm
    checks = [start.check]
    for check in check_figures(log, expectation_for(wanted.profile, vllm, gpu), free):
        checks.append(check)
        _say(context, check)
    checks += _ask(subject, server, wanted, start, context)
    last = check_fatal(subject.log())
    _say(context, last)
    return SmokeResult(
        target=server.url,
        recipe=wanted.recipe,
        profile=wanted.profile.name if wanted.profile else None,
        flags=tuple(wanted.profile.argv()) if wanted.profile else (),
        command=subject.command,
        image=subject.image,
        gpu=gpu.short if gpu else None,
        gpu_name=gpu.name if gpu else None,
        vllm=vllm,
        model=_model(server) if start.healthy else None,
        begun=written(begun),
        seconds=round(time.monotonic() - clock, 3),
        phases={name: round(at, 3) for name, at in start.phases.items()},
        figures={**(log.figures() if log else {}), **({"free_gib": round(free, 2)} if free is not None else {})},
        checks=(*checks, last),
        driver=gpu.driver if gpu else None,
        max_model_len=server.max_model_len if start.healthy else None,
        envelope=wanted.profile.envelope if wanted.profile else None,
        prompts=(wanted.prompt, wanted.answer),
        configuration=wanted.configuration,
    )


def _named(name: str) -> Gpu:
    """A GPU that is known by its name only."""
    return Gpu(name, name, -1.0)


def _model(server: Server) -> str | None:
    try:
        return server.model()
    except UnansweredError:
        return None


def wait_for_start(subject: Subject, server: Server, wanted: Wanted, view: AbstractContextManager[View]) -> Start:
    """Wait until the server is healthy, has ended, has said something fatal, or the limit is reached.

    After a fatal line the log is read on until the process ends, answers, or says nothing more: what is fatal first is
    often only the consequence.
    """
    clock = time.monotonic()
    phases: dict[str, float] = {}
    lines, spoken = 0, clock
    with view as shown:
        while True:
            now = time.monotonic()
            seconds = now - clock
            log = subject.log()
            if log is not None:
                phases.setdefault(log.phase, seconds)
                if log.lines != lines:
                    lines, spoken = log.lines, now
            shown.show(seconds, phases, log)
            if ended := subject.ended():
                # What it said at its end is there now.
                log = subject.log() or log
                tail = ("log", "\n".join(subject.log_text().splitlines()[-15:]))
                details = (*_why(log, wanted), tail)
                return Start(failed(_HEALTH, f"{ended} after {seconds:.1f} s", *details, seconds=seconds), phases)
            trouble = server.health()
            if (
                log is not None
                and log.fatal
                and (trouble is None or now - spoken >= _QUIET_SECONDS or seconds >= wanted.limit)
            ):
                summary = f"given up after {seconds:.1f} s: the log is fatal"
                return Start(failed(_HEALTH, summary, *_why(log, wanted)), phases)
            if trouble is None:
                if log is not None:
                    # The log may come later than the response.
                    phases.setdefault(PHASES[-1], seconds)
                return Start(passed(_HEALTH, f"after {seconds:.1f} s of {wanted.limit:g} s", seconds=seconds), phases)
            if seconds >= wanted.limit:
                phase = f", in the phase {log.phase!r}" if log is not None else ""
                summary = f"not within {wanted.limit:g} s{phase}: {trouble}"
                return Start(failed(_HEALTH, summary, *_why(log, wanted), seconds=seconds), phases)
            time.sleep(min(_POLL_SECONDS, max(wanted.limit - seconds, 0.01)))


def _why(log: StartupLog | None, wanted: Wanted) -> list[tuple[str, str]]:
    """Why the start failed, as far as the log says: the root cause, where it was raised, and what it points to."""
    if log is None:
        return []
    found: list[tuple[str, str]] = []
    if cause := log.root_cause():
        found.append(("cause", f"{cause.kind}: {cause.error}" if cause.kind else cause.error))
        if cause.where:
            found.append(("raised", cause.where))
        if overlays := wanted.changed.get(cause.path):
            found.append(("overlay", f"{', '.join(overlays)} changes {cause.path}"))
        if cause.points_to:
            found.append(("look at", cause.points_to))
    if log.fatal and (not cause or log.fatal[0].line.find(cause.error) < 0):
        found.append(("line", f"{log.fatal[0].line}\n{log.fatal[0].meaning}"))
    return found


def _ask(subject: Subject, server: Server, wanted: Wanted, start: Start, context: Context) -> list[Check]:
    """The checks that send requests; each is not checked when the server is gone."""
    steps: list[tuple[str, Callable[[], Check]]] = [
        (determinism.NAME, lambda: determinism.check(server, wanted.prompt, wanted.answer)),
        (concurrency.NAME, lambda: concurrency.check(server, subject, TOGETHER)),
        (reasoning.NAME, lambda: reasoning.check(server, wanted.profile, _room(wanted.profile))),
        (tools.NAME, lambda: tools.check(server, wanted.profile, _room(wanted.profile))),
    ]
    checks: list[Check] = []
    for name, step in steps:
        gone = "the server is not healthy" if not start.healthy else subject.ended() or server.health()
        if gone:
            check = not_checked(name, gone)
        else:
            try:
                check = step()
            except UnansweredError as error:
                check = failed(name, str(error))
        checks.append(check)
        _say(context, check)
    return checks


def _room(profile: Profile | None) -> int:
    """Tokens for a long answer: half of what the profile serves at once."""
    length = profile.flags.get("max-model-len") if profile else None
    return min(_LONG_ANSWER, length // 2) if isinstance(length, int) else _LONG_ANSWER


def _say(context: Context, check: Check) -> None:
    context.console.say(f"{check.status:<12} {check.name}: {check.summary}")
