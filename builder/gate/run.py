"""One suite against one server: ask what is missing, judge every row, and write the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from builder.documents.profile import Profile
from builder.documents.verdict import Resource
from builder.gate.answers import Parse, Reply, make_parser, schema_bytes
from builder.gate.control import Control, Stop
from builder.gate.engine import (
    OF_THE_ROW,
    Ask,
    Replies,
    ask_all,
    inspect_version,
    logs_of,
    read_replies,
    session,
    settled,
)
from builder.gate.metrics import Figures, compute
from builder.gate.rows import Rows, read_rows
from builder.gate.state import Identity, RunState, keeps, open_state, place_of
from builder.gate.suite import LoadedSuite
from builder.gate.target import Served, Target
from builder.serve.smoke.gpu import Gpu
from builder.util.context import Context
from builder.util.errors import GateError, InputError, MismatchError, UnreachableError
from builder.util.files import sha256


@dataclass(frozen=True)
class About:
    """What is known of the server from outside: the recipe, the profile, its container's command, its GPU."""

    recipe: str | None = None
    profile: Profile | None = None
    flags: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    gpu: Gpu | None = None
    configuration: tuple[Resource, ...] = ()
    """Profile, lock and checkpoint."""


@dataclass(frozen=True)
class Wanted:
    """How to run: where results go, whether to throw an unfinished run away, and how often each row is asked.

    With `redact` what has prompts and answers is kept beside `output`, not in it.
    """

    output: Path
    restart: bool = False
    repeat: int = 1
    redact: bool = False


@dataclass(frozen=True)
class Run:
    """A finished run of one suite."""

    loaded: LoadedSuite
    rows: Rows
    ours: Figures
    theirs: Figures | None
    served: Served
    reference: Served | None
    tokens: Mapping[str, int]
    state: RunState | None
    begun: datetime
    ended: datetime
    schema: bytes | None
    urls: tuple[str, str | None]
    about: About
    notes: tuple[str, ...] = ()
    kind: Literal["gate", "import"] = "gate"
    logs: tuple[Path, ...] = ()
    log_kind: str = "inspect"


def run_suite(
    loaded: LoadedSuite, target: Target, reference: Target | None, about: About, wanted: Wanted, *, context: Context
) -> Run:
    """Ask every row that has no answer yet.

    Raises `UnreachableError` for a dead server, `MismatchError` for a server that became another one, `GateError` when a budget is used
    up, `KeyboardInterrupt` when the user ended it. In all these cases the same command goes on later, but for `MismatchError`.
    """
    clock = context.limits.clock
    started = clock.elapsed()
    rows, parse, schema = read_rows(loaded), make_parser(loaded), schema_bytes(loaded)
    version = inspect_version()
    targets = [target, *([reference] if reference is not None else [])]
    served = [each.served() for each in targets]
    identity = _identity(loaded, rows, schema, served, targets, about, wanted, version)
    folder = place_of(wanted.output, loaded.name, redact=wanted.redact, restart=wanted.restart)
    now = datetime.fromtimestamp(clock.wall(), UTC)
    state = open_state(folder, identity, restart=wanted.restart, now=now)
    suite = loaded.suite
    tokens: dict[str, int] = {}
    if suite.prompt_cap is not None:
        tokens = target.count(rows.rows, served[0].model, suite.sampling.thinking, suite.limits.connections)
    over = {row.id for row in rows.rows if tokens.get(row.id, 0) > (suite.prompt_cap or 0)} if tokens else set()
    everything = [
        Ask(each.name, row, turn) for turn in range(wanted.repeat) for row in rows.rows if row.id not in over for each in targets
    ]  # fmt: skip
    done = read_replies(state.logs) if state.resumed else {}
    kept = _kept(everything, done)
    asks = [ask for ask in everything if ask.id not in kept]
    if state.resumed:
        context.console.say(f"{loaded.name}: {len(kept)} of {len(everything)} answers are kept, {len(asks)} are asked")
    control = Control(
        suite.limits, {each.name: what.model for each, what in zip(targets, served, strict=True)}, clock, wanted.redact
    )
    if asks:
        sides = [each.side(what) for each, what in zip(targets, served, strict=True)]
        try:
            ask_all(asks, sides, suite, session(state.logs), control, context=context)
        except KeyboardInterrupt:
            context.console.say(f"the same command goes on with the answers so far. {keeps(state.folder)}")
            raise
    replies = {**done, **read_replies(state.logs)}
    found = sum(ask.id in replies for ask in everything)
    if control.stop is None or control.stop.spent:
        control.stop = _lost(everything, replies, control) or control.stop
    if control.stop is not None and not (control.stop.spent and found == len(everything)):
        _stopped(control.stop, loaded, state, len(everything), found)
    for each, what in zip(targets, served, strict=True):
        try:
            each.same_as(what)
        except MismatchError as error:
            state.spoil(error.message)
            raise
    if missing := [ask.id for ask in everything if ask.id not in replies]:
        raise InputError(
            f"the log has no answer to {len(missing)} of {len(everything)} rows", details=[("first", missing[0])],
            hint="is the disk full? run the same command again: it continues",
        )  # fmt: skip
    figures = [_side(each.name, loaded, rows, replies, over, parse, wanted.repeat) for each in targets]
    # Not the wall clock's: that may have been set back.
    ended = max(now, state.begun) + timedelta(seconds=max(0.0, clock.elapsed() - started))
    notes = ("the clock of this machine went back during the run",) if now < state.begun else ()
    return Run(
        loaded, rows, figures[0], figures[1] if reference else None, served[0], served[1] if reference else None, tokens, state,
        state.begun, ended, schema, (target.url, reference.url if reference else None), about, notes, logs=tuple(logs_of(state.logs)),
    )  # fmt: skip


def _identity(
    loaded: LoadedSuite, rows: Rows, schema: bytes | None, served: Sequence[Served], targets: Sequence[Target],
    about: About, wanted: Wanted, version: str,
) -> Identity:  # fmt: skip
    parts: dict[str, Any] = {
        "suite": loaded.sha256,
        "rows": rows.sha256,
        "answer schema": sha256(schema) if schema is not None else None,
        "sampling": loaded.suite.sampling.model_dump(mode="json"),
        "target": served[0].image.digest if served[0].image else targets[0].url,
        "model": served[0].model,
        "version": served[0].version,
        "flags": [*about.flags, *(about.command or ())],
        "inspect-ai": ".".join(version.split(".")[:2]),
        "repeat": wanted.repeat,
    }
    if len(targets) > 1:
        parts |= {"reference": targets[1].url, "reference model": served[1].model}
    return Identity(parts)


def _kept(everything: Sequence[Ask], done: Replies) -> set[str]:
    """The asks whose replies a resumed run keeps. A side that has refused all its rows so far is asked again."""
    kept = {ask.id for ask in everything if ask.id in done and settled(done[ask.id])}
    useful = {ask.side for ask in everything if ask.id in kept and _useful(done[ask.id])}
    return {ask.id for ask in everything if ask.id in kept and ask.side in useful}


def _useful(reply: Reply) -> bool:
    """Whether a reply says something of quality: it was neither lost nor refused."""
    return settled(reply) and reply.failure != "client_error"


def _lost(everything: Sequence[Ask], replies: Replies, control: Control) -> Stop | None:
    """A side that has not responded to any row, or has refused all: a suite may have fewer rows than end a run."""
    for side in control.models:
        asked = [replies.get(ask.id) for ask in everything if ask.side == side]
        last = asked[-1] if asked else None
        if last is not None and not any(reply is None or _useful(reply) for reply in asked):
            return control.dead(side, f"all {len(asked)} rows", last)
    return None


def _stopped(stop: Stop, loaded: LoadedSuite, state: RunState, wanted: int, found: int) -> None:
    """Raise what a run that ended early ends with. None of it is a verdict."""
    answered = [("rows", f"{found} of {wanted} were asked"), ("kept", keeps(state.folder))]
    again = "run the same command again: it continues"
    if stop.why == "model":
        state.spoil(stop.text)
        raise MismatchError(f"{loaded.name}: another model responds", details=[("why", stop.text)], hint="begin anew with --restart")  # fmt: skip
    if stop.why == "dead":
        what = "refuses every row" if stop.status in OF_THE_ROW else "is dead"
        raise UnreachableError(f"{loaded.name}: a server {what}", details=[("why", stop.text), *answered], hint=_mended(stop, again))  # fmt: skip
    raise GateError(f"{loaded.name}: the run is incomplete", details=[("why", stop.text), *answered], hint=f"to go on, {again}")  # fmt: skip


def _mended(stop: Stop, again: str) -> str:
    """What to do about a server that does not respond to rows, by the status of the last one."""
    if stop.status in (401, 403):
        return f"set BUILDER_API_KEY (BUILDER_REFERENCE_API_KEY for the reference), then {again}"
    return f"start it, then {again}" if stop.status is None or stop.status >= 500 else f"mend that, then {again}"


def _side(
    name: str, loaded: LoadedSuite, rows: Rows, replies: Replies, over: set[str], parse: Parse, repeat: int
) -> Figures:
    capped = Reply(failure="over_cap", why=f"the prompt is over {loaded.suite.prompt_cap} tokens")
    found = {
        row.id: [capped] if row.id in over else [replies[Ask(name, row, turn).id] for turn in range(repeat)]
        for row in rows.rows
    }
    return compute(loaded.suite.metrics, rows.rows, found, parse)
