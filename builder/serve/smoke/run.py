"""A smoke run: wait for the server, then every check, each with its own outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from builder.documents.profile import Profile
from builder.serve.smoke.checks import concurrency, determinism, reasoning, tools
from builder.serve.smoke.checks.log import check_fatal, check_figures, expectation_for
from builder.serve.smoke.client import Server, UnansweredError
from builder.serve.smoke.gpu import Gpu
from builder.serve.smoke.prompts import SHORT_ANSWER, SHORT_PROMPT, TOGETHER
from builder.serve.smoke.result import Check, SmokeResult, failed, not_checked, passed
from builder.serve.smoke.subject import Subject
from builder.serve.smoke.view import View
from builder.util.context import Context

_POLL_SECONDS = 0.25
_HEALTH = "healthy in time"
# Thoughts and an answer, on a server whose max-model-len is not known to be larger.
_LONG_ANSWER = 2048


@dataclass(frozen=True)
class Wanted:
    """What a run is told: the profile, the limit of the start in seconds, and the short prompt with its answer.

    `gpu` names the GPU when nothing can be asked for it; `vllm` is the version in the lock.
    """

    profile: Profile | None = None
    recipe: str | None = None
    limit: float = 600
    gpu: str | None = None
    vllm: str | None = None
    prompt: str = SHORT_PROMPT
    answer: str = SHORT_ANSWER


@dataclass
class _Start:
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
    start = _wait(subject, server, wanted.limit, view)
    _say(context, start.check)
    gpu = subject.gpu() or early
    if wanted.gpu is not None:
        gpu = Gpu(gpu.name if gpu else wanted.gpu, wanted.gpu, gpu.free_gib) if gpu else _named(wanted.gpu)
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
        begun=begun.isoformat(timespec="seconds").replace("+00:00", "Z"),
        seconds=round(time.monotonic() - clock, 3),
        phases={name: round(at, 3) for name, at in start.phases.items()},
        figures={**(log.figures() if log else {}), **({"free_gib": round(free, 2)} if free is not None else {})},
        checks=(*checks, last),
    )


def _named(name: str) -> Gpu:
    """A GPU that is known by its name only."""
    return Gpu(name, name, -1.0)


def _model(server: Server) -> str | None:
    try:
        return server.model()
    except UnansweredError:
        return None


def _wait(subject: Subject, server: Server, limit: float, view: AbstractContextManager[View]) -> _Start:
    """Wait until the server is healthy, has ended, has said something fatal, or the limit is reached."""
    clock = time.monotonic()
    phases: dict[str, float] = {}
    with view as shown:
        while True:
            seconds = time.monotonic() - clock
            log = subject.log()
            if log is not None:
                phases.setdefault(log.phase, seconds)
            shown.show(seconds, phases, log)
            if log is not None and log.fatal:
                first = log.fatal[0]
                why = ("line", f"{first.line}\n{first.meaning}")
                return _Start(failed(_HEALTH, f"given up after {seconds:.1f} s: the log is fatal", why), phases)
            if ended := subject.ended():
                tail = ("log", "\n".join(subject.log_text().splitlines()[-15:]))
                return _Start(failed(_HEALTH, f"{ended} after {seconds:.1f} s", tail, seconds=seconds), phases)
            trouble = server.health()
            if trouble is None:
                return _Start(passed(_HEALTH, f"after {seconds:.1f} s of {limit:g} s", seconds=seconds), phases)
            if seconds >= limit:
                phase = f", in the phase {log.phase!r}" if log is not None else ""
                return _Start(failed(_HEALTH, f"not within {limit:g} s{phase}: {trouble}", seconds=seconds), phases)
            time.sleep(min(_POLL_SECONDS, max(limit - seconds, 0.01)))


def _ask(subject: Subject, server: Server, wanted: Wanted, start: _Start, context: Context) -> list[Check]:
    """The checks that send requests; none when there is nobody to answer."""
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
