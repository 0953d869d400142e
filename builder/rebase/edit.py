"""Changing a recipe's text in place: the lines that must change, and no comment, quote or blank line else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from builder.errors import InputError

_PLAIN = re.compile(r"[A-Za-z0-9./_][A-Za-z0-9./_=:#@+-]*")


@dataclass(frozen=True)
class OverlayEdit:
    """What becomes of one overlay of a recipe: dropped, or put in place of its pull request, or with new digests."""

    drop: bool = False
    replace: Mapping[str, str] | None = None
    """New keys and values instead of `pull`, `head`, `merge_base` or `file`."""
    after: Mapping[str, str] = field(default_factory=dict)
    """New values of the overlay's `after`, by path."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """New paths in the overlay's `after`."""

    @property
    def changes(self) -> bool:
        return self.drop or self.replace is not None or bool(self.after) or bool(self.moved)


# What belongs to the diff that is replaced, and not to the one in its place.
OF_THE_DIFF = frozenset({"pull", "head", "merge_base", "file", "origin", "fuzz", "accept_undelivered"})


def edit_recipe(text: str, *, base: str | None = None, overlays: Sequence[OverlayEdit] = ()) -> str:
    """The recipe's text with another base and edited overlays, in their order.

    Overlays that are written in braces or brackets get lines of their own when one of them is edited.
    """
    text = _in_block_style(text, overlays)
    root = _root(text)
    spans: list[tuple[int, int, str]] = []
    for key, value in root.value:
        if key.value == "base" and base is not None:
            spans.append((value.start_mark.index, value.end_mark.index, quoted(base)))
        if key.value == "overlays" and isinstance(value, yaml.SequenceNode) and any(each.changes for each in overlays):
            spans += _overlay_spans(text, key, value, overlays)
    for start, end, new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def append_overlays(text: str, items: Sequence[Mapping[str, str]]) -> str:
    """The recipe's text with more overlays at the end of its list."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    found = next(((k, v) for k, v in root.value if k.value == "overlays"), None) if root is not None else None
    if found is None:
        return text.rstrip("\n") + "\noverlays:\n" + _items(items, "  ")
    key, value = found
    if isinstance(value, yaml.SequenceNode) and value.value and not value.flow_style:
        at = _line_end(text, _last(value))
        indent = " " * (value.start_mark.column)
        return text[:at].rstrip("\n") + "\n" + _items(items, indent) + text[at:]
    if isinstance(value, yaml.SequenceNode) and value.value:
        return append_overlays(_list_in_lines(text, key, value), items)
    return (
        text[: key.start_mark.index] + "overlays:\n" + _items(items, "  ").rstrip("\n") + text[value.end_mark.index :]
    )


def quoted(value: str) -> str:
    """A scalar that YAML reads back as this text."""
    return (
        value if _PLAIN.fullmatch(value) and yaml.safe_load(value) == value else json.dumps(value, ensure_ascii=False)
    )


def _items(items: Sequence[Mapping[str, str]], indent: str) -> str:
    lines: list[str] = []
    for item in items:
        for number, (key, value) in enumerate(item.items()):
            lines.append(f"{indent}{'- ' if number == 0 else '  '}{key}: {quoted(value)}\n")
    return "".join(lines)


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise InputError("the recipe is not a mapping of keys to values")
    return root


def _in_block_style(text: str, overlays: Sequence[OverlayEdit]) -> str:
    """The text with lines of its own for each key of an overlay that is edited and stands in braces or brackets."""
    found = next(((key, value) for key, value in _root(text).value if key.value == "overlays"), None)
    if found is None or not isinstance(found[1], yaml.SequenceNode) or not any(each.changes for each in overlays):
        return text
    key, value = found
    if value.flow_style and value.value:
        return _list_in_lines(text, key, value)
    for item, edit in reversed(list(zip(value.value, overlays, strict=True))):
        if item.flow_style and edit.changes and not edit.drop:
            lines = _pairs(text, item, " " * item.start_mark.column)
            # What is said behind the braces goes behind the first line, which is the one that stays.
            comment, end, rest = text[item.end_mark.index :].partition("\n")
            first, *others = lines.split("\n")
            text = text[: item.start_mark.index] + "\n".join([first + comment, *others]) + end + rest
    return text


def _list_in_lines(text: str, key: yaml.Node, value: yaml.SequenceNode) -> str:
    items = "".join(f"  - {_pairs(text, item, '    ')}\n" for item in value.value)
    rest = text[value.end_mark.index :].lstrip(" \t")
    return text[: key.end_mark.index] + ":\n" + items.rstrip("\n") + (f" {rest}" if rest[:1] == "#" else rest)


def _pairs(text: str, item: yaml.Node, indent: str) -> str:
    """A mapping's keys and values line by line, the first without its indent; the values as they are written."""
    pairs = [(_slice(text, key), _slice(text, value)) for key, value in item.value]
    return f"\n{indent}".join(f"{key}: {value}" for key, value in pairs)


def _slice(text: str, node: yaml.Node) -> str:
    written = text[node.start_mark.index : node.end_mark.index].strip()
    if "\n" not in written:
        return written if written else '""'
    return quoted(node.value) if isinstance(node, yaml.ScalarNode) else re.sub(r"\s*\n\s*", " ", written)


def _overlay_spans(
    text: str, key: yaml.Node, value: yaml.SequenceNode, overlays: Sequence[OverlayEdit]
) -> list[tuple[int, int, str]]:
    if all(edit.drop for edit in overlays):
        return [(key.end_mark.index, _line_end(text, _last(value)), ": []\n")]
    spans: list[tuple[int, int, str]] = []
    for item, edit in zip(value.value, overlays, strict=True):
        if edit.drop:
            spans.append((_item_start(text, item), _line_end(text, _last(item)), ""))
        elif edit.changes and isinstance(item, yaml.MappingNode):
            spans += _mapping_spans(text, item, edit)
    return spans


def _mapping_spans(text: str, item: yaml.MappingNode, edit: OverlayEdit) -> list[tuple[int, int, str]]:
    spans: list[tuple[int, int, str]] = []
    indent = " " * item.start_mark.column
    pairs = list(item.value)
    if edit.replace is not None:
        gone = {*OF_THE_DIFF, *edit.replace}
        lines = f"\n{indent}".join(f"{key}: {quoted(value)}" for key, value in edit.replace.items())
        # The new keys stand where the item begins; what stood there and stays keeps its place behind them.
        first_key, first_value = pairs[0]
        if first_key.value in gone:
            spans.append((first_key.start_mark.index, first_value.end_mark.index, lines))
        else:
            spans.append((first_key.start_mark.index, first_key.start_mark.index, f"{lines}\n{indent}"))
        for key, value in pairs[1:]:
            if key.value in gone:
                spans.append((_line_start(text, key.start_mark.index), _line_end(text, _last(value)), ""))
    for key, value in pairs:
        if key.value == "after" and isinstance(value, yaml.MappingNode):
            for path, digest in value.value:
                if path.value in edit.moved:
                    spans.append((path.start_mark.index, path.end_mark.index, quoted(edit.moved[path.value])))
                if path.value in edit.after:
                    spans.append((digest.start_mark.index, digest.end_mark.index, edit.after[path.value]))
    return spans


def _last(node: yaml.Node) -> int:
    """Where a node's last scalar ends: a block's own end mark stands at whatever comes after it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last(last[1] if isinstance(last, tuple) else last)
    end = node.end_mark.index
    return int(end)


def _item_start(text: str, item: yaml.Node) -> int:
    """Where an item's lines begin, comments that stand directly above it included."""
    start = _line_start(text, item.start_mark.index)
    indent = text[start:].split("-", 1)[0]
    while start:
        above = _line_start(text, start - 1)
        line = text[above:start]
        if not line.startswith(f"{indent}#"):
            break
        start = above
    return start


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_end(text: str, at: int) -> int:
    """Behind the newline of the line in which `at` stands."""
    if at and text[at - 1] == "\n":
        return at
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1
