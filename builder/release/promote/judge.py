"""Whether an image has what a policy asks for: each required verdict, signed as wanted, passed and not expired.

The newest verdict that is signed as wanted counts, for this very digest, suite, profile and GPU; an older one that passed does
not outweigh a newer one that failed. What does not count is shown with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from builder.documents.policy import Policy
from builder.documents.verdict import Verdict
from builder.release.attest.signed import SignedBy
from builder.release.verify.reader import Attachment
from builder.util.errors import InputError

Reason = Literal[
    "passed", "absent", "other digest", "failed", "warned", "unsigned", "wrong signer", "expired", "edited", "other suite",
    "other rows", "other answer schema", "other profile", "other GPU", "from the future",
]  # fmt: skip
FileName = Literal["rows", "answer schema"]
"""A file beside a suite that the suite's own digest does not cover, as verdicts name it in their configuration."""
_OTHER: Final[Mapping[FileName, Reason]] = {"rows": "other rows", "answer schema": "other answer schema"}
_SKEW: Final = timedelta(minutes=5)
"""How far two machines' clocks may be apart."""
_CLOSEST: Final[tuple[Reason, ...]] = (
    "edited", "other suite", "other rows", "other answer schema", "other profile", "other GPU", "other digest", "wrong signer", "unsigned",
)  # fmt: skip
"""Which reason is named first when no verdict counts."""


@dataclass(frozen=True)
class Seen:
    """One attached verdict, and why it does or does not meet the requirement."""

    verdict: Verdict
    signed: SignedBy
    referrer: str
    stored: str
    reason: Reason

    def __str__(self) -> str:
        ended = self.verdict.details.ended
        return f"{self.reason}: {self.verdict.result} of {ended}, {self.signed} ({self.referrer[:19]})"


@dataclass(frozen=True)
class Finding:
    """What was found of one required suite. `counts` is the verdict that decided; `others` are shown only."""

    suite: str
    reason: Reason
    why: str
    counts: Seen | None = None
    others: tuple[Seen, ...] = ()

    @property
    def passed(self) -> bool:
        return self.reason == "passed"

    def lines(self) -> list[str]:
        """The finding for people, the deciding verdict first."""
        first = str(self.counts) if self.counts is not None else f"{self.reason}: {self.why}"
        return [first, *(f"not counted, {each}" for each in self.others)]


@dataclass(frozen=True)
class Wanted:
    """A policy, with the digest (64 hexadecimal digits) that each suite has today. `edited` suites are not as pinned.

    `files` has, by suite, the digests of its rows and its answer schema where these files are present.
    """

    policy: Policy
    suites: Mapping[str, str]
    edited: Mapping[str, str]
    files: Mapping[str, Mapping[FileName, str]] = field(default_factory=dict)


def judge(wanted: Wanted, digest: str, attached: Sequence[Attachment], now: datetime) -> list[Finding]:
    """One finding for each required suite. `attached` is everything beside the image; `digest` is the image's."""
    verdicts = [found for each in attached if (found := _verdict(each)) is not None]
    return [_find(wanted, suite, digest, verdicts, now) for suite in wanted.suites]


def unreadable(attached: Sequence[Attachment]) -> list[str]:
    """What is attached as a verdict or an envelope and cannot be read as one."""
    found = [f"{each.digest[:19]} {each.problem}" for each in attached if each.problem]
    for each in attached:
        if each.kind == "verdict" and not each.problem and _verdict(each) is None:
            found.append(f"{each.digest[:19]} is not a verdict of this tool")
    return found


def _verdict(each: Attachment) -> tuple[Attachment, Verdict] | None:
    if each.kind != "verdict" or each.problem:
        return None
    try:
        return each, Verdict.parse(each.document)
    except InputError:
        return None


def _find(
    wanted: Wanted, suite: str, digest: str, verdicts: Sequence[tuple[Attachment, Verdict]], now: datetime
) -> Finding:
    if suite in wanted.edited:
        return Finding(suite, "other suite", wanted.edited[suite])
    seen = [
        Seen(verdict, each.signed, each.digest, each.stored, _eligible(wanted, suite, digest, each, verdict))
        for each, verdict in verdicts
        if verdict.suite == suite
    ]
    eligible = [each for each in seen if each.reason == "passed"]
    signed = [each for each in eligible if each.signed.state == "verified"] or eligible
    if not signed:
        return _none(suite, seen)
    # Of two that ended in the same second, the worse one counts.
    newest = max(signed, key=lambda each: (each.verdict.ended, each.verdict.result == "FAILED", each.referrer))
    reason = _outcome(wanted.policy, newest.verdict, now)
    counts = Seen(newest.verdict, newest.signed, newest.referrer, newest.stored, reason)
    others = tuple(each for each in seen if each is not newest)
    return Finding(suite, reason, str(counts), counts, others)


def _none(suite: str, seen: Sequence[Seen]) -> Finding:
    if not seen:
        return Finding(suite, "absent", f"no verdict of {suite} is attached")
    reason = next(each for each in _CLOSEST if any(one.reason == each for one in seen))
    return Finding(suite, reason, "no verdict counts", None, tuple(seen))


def _eligible(wanted: Wanted, suite: str, digest: str, each: Attachment, verdict: Verdict) -> Reason:
    """Whether a verdict is the one that is asked for (`passed`), whatever its result; else why not."""
    state, policy = each.signed.state, wanted.policy
    if state == "broken":
        return "edited"
    if state == "unchecked":
        return "wrong signer"
    if state == "unsigned" and not policy.allow_unsigned:
        return "unsigned"
    if digest not in verdict.image_digests:
        return "other digest"
    if verdict.suite_digest != f"sha256:{wanted.suites[suite]}":
        return "other suite"
    for name, today in wanted.files.get(suite, {}).items():
        if verdict.config(name) != today:
            return _OTHER[name]
    if policy.profile is not None and verdict.profile != policy.profile:
        return "other profile"
    if policy.gpu is not None and verdict.gpu != policy.gpu:
        return "other GPU"
    return "passed"


def _outcome(policy: Policy, verdict: Verdict, now: datetime) -> Reason:
    if verdict.result == "FAILED":
        return "failed"
    if verdict.result == "WARNED" and not policy.allow_warned:
        return "warned"
    oldest = now - timedelta(days=policy.max_age_days) if policy.max_age_days is not None else None
    if verdict.expired(now) or (oldest is not None and verdict.ended < oldest):
        return "expired"
    return "from the future" if verdict.ended > now + _SKEW else "passed"
