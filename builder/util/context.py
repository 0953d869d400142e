"""What one run of a command carries everywhere: whom to tell, and how the network may be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from builder.util.limits import Limits


class Progress(Protocol):
    """A running progress bar, advanced by bytes or items."""

    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None:
        """Replace the text beside the bar."""


class Reporter(Protocol):
    """Where messages and progress go. The command line's `Console` is one; a library's caller may pass another."""

    def say(self, text: str) -> None:
        """A message about what is going on."""

    def detail(self, text: str) -> None:
        """A message for whoever asked for more."""

    def warn(self, text: str) -> None:
        """A warning."""

    def progress(
        self, label: str, *, total: int | None = None, unit: str = "bytes"
    ) -> AbstractContextManager[Progress]:
        """A progress bar; `total` counts `unit`, which is `bytes` or a plural noun."""


class SilentProgress:
    """A bar that nobody sees."""

    def advance(self, amount: int) -> None: ...

    def note(self, text: str) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def say(self, text: str) -> None: ...

    def detail(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    @contextmanager
    def progress(self, label: str, *, total: int | None = None, unit: str = "bytes") -> Iterator[Progress]:  # noqa: ARG002
        yield SilentProgress()


@dataclass(frozen=True)
class Context:
    """Made by a command, held by the opened recipe, and passed down whole.

    `offline` means that no server is asked: what is neither vendored nor in the cache is an error. `limits` hold for
    every server that is asked. Raises `InputError` when the environment sets limits that are not valid.
    """

    console: Reporter = field(default_factory=Silent)
    offline: bool = False
    limits: Limits = field(default_factory=lambda: Limits.from_environment())  # noqa: PLW0108  a test replaces it
