"""Drift as a table's rows, and as Markdown for an issue that a scheduled job opens."""

from __future__ import annotations

from collections.abc import Sequence

from builder.upkeep.drift.model import DriftFinding

COLUMNS = ("what", "name", "cause", "detail")
_MARKS = frozenset("&<>[]()*_~`#@!|\\:")


def rows(findings: Sequence[DriftFinding]) -> list[list[str]]:
    return [[each.what, each.name, each.cause, each.detail or "-"] for each in findings]


def markdown(name: str, findings: Sequence[DriftFinding]) -> str:
    """A heading, one row per pinned thing, and what to do for each that drifted. Ends without a newline."""
    moved = [each for each in findings if each.drifted]
    title = f"{len(moved)} of {len(findings)} pins of `{name}` drifted" if moved else f"No drift of `{name}`"
    lines = [f"## {title}", "", "| what | name | cause | locked | upstream | detail |", "|---|---|---|---|---|---|"]
    for each in findings:
        cause = f"**{each.cause}**" if each.drifted else each.cause
        cells = [
            each.what,
            _code(each.name),
            cause,
            _code(_short(each.locked)),
            _code(_short(each.upstream)),
            _plain(each.detail),
        ]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    if moved:
        lines += ["", "Next:", ""]
        lines += [f"- {_code(each.name)}{_about(each)}: {_cell(each.next or _plain(each.detail))}" for each in moved]
    return "\n".join(lines)


def _about(finding: DriftFinding) -> str:
    """Title, author, reason and the condition for dropping it, as far as they are known."""
    known = [finding.about.get("title"), finding.about.get("author")]
    known += [
        f"{label}: {finding.about[key]}"
        for key, label in (("why", "why"), ("drop_when", "drop when"))
        if finding.about.get(key)
    ]
    text = "; ".join(each for each in known if each)
    return f" ({_plain(text)})" if text else ""


def _short(value: str | None) -> str:
    return value.removeprefix("sha256:")[:12] if value else ""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    """Text that ends neither its cell nor its line."""
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text of others without effect in Markdown: no link, mention, image, HTML or emphasis."""
    return "".join(f"&#{ord(each)};" if each in _MARKS else each for each in " ".join(text.split()))
