"""Several prompts at once: all are answered, and the server is alive afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from builder.serve.smoke.client import Completion, Server, UnansweredError
from builder.serve.smoke.result import Check, failed, passed
from builder.serve.smoke.subject import Subject

NAME = "concurrent prompts"
_MAX_TOKENS = 256
# A dead engine is noticed by its server a moment after the request that killed it.
_AFTERMATH_SECONDS = 3.0


def check(server: Server, subject: Subject, prompts: Sequence[str]) -> Check:
    """Send all `prompts` at the same moment."""
    together = threading.Barrier(len(prompts))
    server.model()

    def ask(prompt: str) -> Completion | str:
        together.wait()
        try:
            return server.chat([{"role": "user", "content": prompt}], max_tokens=_MAX_TOKENS, thinking=False)
        except UnansweredError as error:
            return str(error)

    begun = time.monotonic()
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(ask, prompts))
    seconds = time.monotonic() - begun
    shown = [_show(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    missing = [answer for answer in answers if isinstance(answer, str) or not answer.content.strip()]
    if trouble := _aftermath(server, subject):
        return failed(NAME, f"the server died under {len(prompts)} requests: {trouble}", *shown, seconds=seconds)
    if missing:
        return failed(NAME, f"{len(missing)} of {len(prompts)} were not answered", *shown, seconds=seconds)
    return passed(NAME, f"{len(prompts)} of {len(prompts)} answered, and the server is well", *shown, seconds=seconds)


def _aftermath(server: Server, subject: Subject) -> str | None:
    """What has become of the server: None when it stays healthy."""
    end = time.monotonic() + _AFTERMATH_SECONDS
    while True:
        trouble = subject.ended() or server.health()
        if trouble or time.monotonic() > end:
            return trouble
        time.sleep(0.2)


def _show(prompt: str, answer: Completion | str) -> tuple[str, str]:
    said = f"not answered: {answer}" if isinstance(answer, str) else answer.content or "(an empty answer)"
    return ("prompt", f"{prompt}\n-> {said}")
