"""The errors of this tool, and their exit codes.

Policy: what a user can mend is a `BuilderError` with a message (what), details (where, why) and a hint (what next).
Anything else that escapes is a bug in this tool: exit code 1, a traceback and a report file.

An error that belongs to one module is defined beside its use and inherits from one of the classes here, so that the
exit code follows from the kind of trouble and is never chosen at the place of raising.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_APPLY = 3
EXIT_MISMATCH = 4
EXIT_UNREACHABLE = 5
EXIT_GATE = 6
EXIT_INTERRUPTED = 130


class BuilderError(Exception):
    """Root of all errors that a user can mend.

    `details` are (label, text) pairs printed under the message, labels such as `where`, `wanted`, `found`;
    `hint` says what to do next; `data` goes into the `--json` error document as it is.
    """

    exit_code: ClassVar[int] = EXIT_INPUT

    def __init__(
        self,
        message: str,
        *,
        details: Sequence[tuple[str, str]] = (),
        hint: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)
        self.hint = hint
        self.data = dict(data or {})

    def as_json(self) -> dict[str, Any]:
        """The error as a document: `message`, `kind`, `exit_code`, `details`, `hint`, and the error's own `data`."""
        return {
            "error": {
                "kind": type(self).__name__,
                "message": self.message,
                "exit_code": self.exit_code,
                "details": [{"label": label, "text": text} for label, text in self.details],
                "hint": self.hint,
                **self.data,
            }
        }


class InputError(BuilderError):
    """Wrong input: a recipe, profile, diff, option or file that cannot be used as it is."""

    exit_code = EXIT_INPUT


class ApplyError(BuilderError):
    """An overlay does not apply. Nothing was written."""

    exit_code = EXIT_APPLY


class MismatchError(BuilderError):
    """Something differs from its lock or record."""

    exit_code = EXIT_MISMATCH


class UnreachableError(BuilderError):
    """The network, a registry or Docker cannot be reached, or refuses."""

    exit_code = EXIT_UNREACHABLE


class GateError(BuilderError):
    """A smoke check or a quality gate failed."""

    exit_code = EXIT_GATE
