"""What ends a run early: a dead server, a budget, or another model than the one that was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from builder.gate.answers import Reply
from builder.gate.suite import Limits
from builder.util.limits import Clock

Why = Literal["dead", "tokens", "time", "model"]


@dataclass(frozen=True)
class Stop:
    """Why a run ended before its last row, in words for people."""

    why: Why
    text: str
    status: int | None = None

    @property
    def spent(self) -> bool:
        """A budget is used up, which is nothing against the answers."""
        return self.why in ("tokens", "time")


@dataclass
class Control:
    """Watches replies as they come. Once it has a `stop`, no further row is asked; what was answered is kept.

    `models` has the model id that each side must name in its responses. Budgets are those of one session: a resumed run has
    them anew. With `redact` a reason never repeats what a server responds.
    """

    limits: Limits
    models: dict[str, str]
    clock: Clock
    redact: bool = False
    spent: int = 0
    stop: Stop | None = None
    _failures: dict[str, int] = field(default_factory=dict)
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock.elapsed()

    def may_ask(self) -> bool:
        """Whether another row may be sent now."""
        minutes = self.limits.wall_minutes
        if self.stop is None and minutes is not None:
            passed = self.clock.elapsed() - self._begun
            if passed >= minutes * 60:
                self.stop = Stop("time", f"the budget of {minutes:g} minutes is used up")
        return self.stop is None

    def note(self, side: str, reply: Reply) -> None:
        """Take in what a row got."""
        self.spent += (reply.prompt_tokens or 0) + (reply.completion_tokens or 0)
        dead = reply.failure in ("transport", "server_error")
        self._failures[side] = self._failures.get(side, 0) + 1 if dead else 0
        if self.stop is not None:
            return
        if self._failures[side] >= self.limits.dead_after:
            self.stop = self.dead(side, f"{self._failures[side]} rows in a row", reply)
        elif reply.model is not None and reply.model != self.models[side]:
            self.stop = Stop("model", f"{side}: asked {self.models[side]!r}, and {reply.model!r} responds")
        else:
            self._check_tokens()

    def dead(self, side: str, what: str, last: Reply) -> Stop:
        """A server that does not respond to rows. No verdict is made of that."""
        tries = "1 attempt" if self.limits.tries == 1 else f"{self.limits.tries} attempts"
        why = last.why if not self.redact else f"status {last.status}" if last.status else last.failure
        return Stop("dead", f"{side}: {what} failed after {tries} each; the last: {why}", last.status)

    def _check_tokens(self) -> None:
        budget = self.limits.total_tokens
        if self.stop is None and budget is not None and self.spent >= budget:
            self.stop = Stop("tokens", f"{self.spent:,} tokens of {budget:,} are used up")
