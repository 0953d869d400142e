"""Changing a recipe's text in place: the lines that must change, and no comment, quote or blank line else.

What is edited is YAML that people write, in more ways than these functions know. So no edited text leaves this module
unread: `edited` takes it only when it loads as the recipe that was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from builder.documents.recipe import Recipe
from builder.documents.yamlfile import parse_yaml, validate_document
from builder.util.errors import InputError

_PLAIN = re.compile(r"[A-Za-z0-9./_][A-Za-z0-9./_=:#@+-]*")
_DASH = re.compile(r"[ \t]*-(?=\s)")
_STRING = "tag:yaml.org,2002:str"
_HINT = "write it in block style: each key on a line of its own, and each overlay behind a dash"

Span = tuple[int, int, str]


@dataclass(frozen=True)
class OverlayEdit:
    """What becomes of one overlay of a recipe: dropped, or put in place of its pull request, or with new digests."""

    drop: bool = False
    replace: Mapping[str, str] | None = None
    """New keys and values instead of `pull`, `head`, `merge_base` or `file`."""
    after: Mapping[str, str] = field(default_factory=dict)
    """New values of the overlay's `after`, by path as written."""
    moved: Mapping[str, str] = field(default_factory=dict)
    """New paths in the overlay's `after`."""
    unpinned: Collection[str] = ()
    """Paths that leave the overlay's `after`; the last one takes the key with it."""

    @property
    def changes(self) -> bool:
        return self.drop or self.replace is not None or bool(self.after or self.moved or self.unpinned)


Written = str | int | list[str]
"""A value of an overlay's key in a recipe."""

# What belongs to the diff that is replaced, and not to the one in its place.
OF_THE_DIFF = frozenset({
    "pull", "head", "merge_base", "file", "origin", "strip", "under", "fuzz", "accept_undelivered",
})  # fmt: skip


def edited(text: str, edit: Callable[[str], str], wanted: Recipe, name: str) -> str:
    """The text after `edit`, when it loads as `wanted`; `name` is the file in messages.

    Raises `InputError` when it does not: then the text is written in a way that this module does not edit.
    """
    cause: Exception | None = None
    try:
        text = edit(text)
        if validate_document(Recipe, parse_yaml(text, name)) == wanted:
            return text
    except BlockStyleError:
        raise
    except (InputError, yaml.YAMLError) as error:
        # What is wrong is in the edited text, which exists nowhere: its line numbers would mislead.
        cause = error
    raise InputError(
        f"{name} cannot be edited in place: its YAML is written in a way that this tool does not edit", hint=_HINT
    ) from cause


class BlockStyleError(InputError):
    """What has to change is written in flow style, in braces or brackets, as JSON is."""

    def __init__(self, what: str = "the recipe", *, line: int = 1) -> None:
        super().__init__(
            f"{what} is written in braces or brackets, which this tool does not edit",
            details=[("where", f"line {line}")],
            hint=_HINT,
        )


def edit_recipe(text: str, *, base: str | None = None, overlays: Sequence[OverlayEdit] = ()) -> str:
    """The recipe's text with another base and edited overlays, in their order. Its line endings do not change.

    Raises `BlockStyleError` when an overlay that changes is written in braces or brackets; a new base alone is written
    there too.
    """
    return _keeping_line_endings(text, lambda text: _edit_recipe(text, base, overlays))


def append_overlays(text: str, items: Sequence[Mapping[str, Written]]) -> str:
    """The recipe's text with more overlays at the end of its list. Raises `BlockStyleError` for a list in braces or brackets."""
    return _keeping_line_endings(text, lambda text: _append(text, items))


def quoted(value: str) -> str:
    """A scalar that YAML reads back as this text."""
    if _PLAIN.fullmatch(value) and _is_text(value):
        return value
    # JSON leaves characters as they are that YAML does not take, or takes for line endings.
    return "".join(
        letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in json.dumps(value, ensure_ascii=False)
    )


def _is_text(plain: str) -> bool:
    """Whether it is text for other readers of YAML 1.1 and for this tool, which takes more floats than they do."""
    try:
        node = yaml.compose(plain, Loader=yaml.SafeLoader)
        return isinstance(node, yaml.ScalarNode) and node.tag == _STRING and parse_yaml(plain, plain).value == plain
    except (InputError, yaml.YAMLError):
        return False


def _keeping_line_endings(text: str, edit: Callable[[str], str]) -> str:
    if "\r\n" in text and text.count("\r") == text.count("\n") == text.count("\r\n"):
        return edit(text.replace("\r\n", "\n")).replace("\n", "\r\n")
    return edit(text)


def _edit_recipe(text: str, base: str | None, overlays: Sequence[OverlayEdit]) -> str:
    changing = any(each.changes for each in overlays)
    root = _root(text)
    if changing:
        _refuse_flow_style(root, overlays)
    spans: list[Span] = []
    for key, value in root.value:
        if key.value == "base" and base is not None:
            # In JSON nothing is plain.
            new = json.dumps(base) if root.flow_style else quoted(base)
            spans.append((value.start_mark.index, _end(text, value), new + _header_comment(text, value)))
        if key.value == "overlays" and isinstance(value, yaml.SequenceNode) and changing:
            spans += _overlay_spans(text, key, value, overlays)
    for start, end, new in sorted(spans, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _append(text: str, items: Sequence[Mapping[str, Written]]) -> str:
    root = _root(text)
    if root.flow_style:
        raise BlockStyleError
    found = _overlays(root)
    if found is None:
        return _append_list(text, root, items)
    key, value = found
    if not value.value:
        indent = " " * key.start_mark.column
        lines = f"overlays:\n{_items(items, f'{indent}  ')}".rstrip("\n")
        return text[: key.start_mark.index] + lines + text[value.end_mark.index :]
    if value.flow_style:
        raise BlockStyleError("the recipe's list of overlays", line=value.start_mark.line + 1)
    at = _line_end(text, _end(text, value))
    dash = _dash(text, value.value[-1])
    indent = text[_line_start(text, dash) : dash]
    return _with_newline(text[:at]) + _items(items, indent) + text[at:]


def _append_list(text: str, root: yaml.MappingNode, items: Sequence[Mapping[str, Written]]) -> str:
    """A list of overlays for a recipe that has none: behind everything, but before the mark of a document's end."""
    indent = " " * root.value[0][0].start_mark.column
    at = _line_end(text, _last(root))
    if all(line.lstrip().startswith("#") or not line.strip() for line in text[at:].splitlines()):
        at = len(text)
    return _with_newline(text[:at]) + f"{indent}overlays:\n" + _items(items, f"{indent}  ") + text[at:]


def _items(items: Sequence[Mapping[str, Written]], indent: str) -> str:
    lines: list[str] = []
    for item in items:
        for number, (key, value) in enumerate(item.items()):
            lines.append(f"{indent}{'- ' if number == 0 else '  '}{key}: {_written(value)}\n")
    return "".join(lines)


def _written(value: Written) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(quoted, value))}]"
    return quoted(value) if isinstance(value, str) else str(value)


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise InputError("the recipe is not a mapping of keys to values", hint="it begins with `name: ...`")
    return root


def _overlays(root: yaml.MappingNode) -> tuple[yaml.Node, yaml.SequenceNode] | None:
    """The key and the list of the overlays. Raises `InputError` when they are not a list."""
    found = next(((key, value) for key, value in root.value if key.value == "overlays"), None)
    if found is not None and not isinstance(found[1], yaml.SequenceNode):
        raise InputError("the recipe's overlays are not a list", hint="write each overlay behind a dash")
    return found


def _refuse_flow_style(root: yaml.MappingNode, overlays: Sequence[OverlayEdit]) -> None:
    """Raise `BlockStyleError` when an overlay that changes is written in braces or brackets."""
    if root.flow_style:
        raise BlockStyleError
    found = _overlays(root)
    if found is None:
        return
    _, value = found
    if value.flow_style and value.value:
        raise BlockStyleError("the recipe's list of overlays", line=value.start_mark.line + 1)
    for item, edit in zip(value.value, overlays, strict=True):
        if item.flow_style and edit.changes and not edit.drop:
            raise BlockStyleError("an overlay of the recipe", line=item.start_mark.line + 1)


def _overlay_spans(text: str, key: yaml.Node, value: yaml.SequenceNode, overlays: Sequence[OverlayEdit]) -> list[Span]:
    if all(edit.drop for edit in overlays):
        return [(key.end_mark.index, _line_end(text, _end(text, value)), ": []\n")]
    spans: list[Span] = []
    for item, edit in zip(value.value, overlays, strict=True):
        if edit.drop:
            spans.append((_item_start(text, item), _line_end(text, _end(text, item)), ""))
        elif edit.changes and isinstance(item, yaml.MappingNode):
            spans += _mapping_spans(text, item, edit)
    return spans


def _mapping_spans(text: str, item: yaml.MappingNode, edit: OverlayEdit) -> list[Span]:
    pairs = list(item.value)
    pins = next((value for key, value in pairs if key.value == "after" and isinstance(value, yaml.MappingNode)), None)
    gone = {*OF_THE_DIFF, *edit.replace} if edit.replace is not None else set()
    if pins is not None and pins.value and all(path.value in edit.unpinned for path, _ in pins.value):
        gone.add("after")
    spans = _gone_spans(text, pairs, gone, edit.replace or {})
    if pins is not None and pins.value and "after" not in gone:
        spans += _pin_spans(text, pins, edit)
    return spans


def _gone_spans(
    text: str, pairs: Sequence[tuple[yaml.Node, yaml.Node]], gone: Collection[str], new: Mapping[str, str]
) -> list[Span]:
    """Keys taken out of an item, and the new ones put in where it begins; what stays keeps its place behind them."""
    spans: list[Span] = []
    first_key, first_value = pairs[0]
    start = first_key.start_mark.index
    # Not the item's own column: an anchor may be there, on a line before the keys.
    indent = " " * first_key.start_mark.column
    lines = f"\n{indent}".join(f"{key}: {quoted(value)}" for key, value in new.items())
    if first_key.value not in gone:
        if lines:
            spans.append((start, start, f"{lines}\n{indent}"))
    elif lines:
        spans.append((start, _end(text, first_value), lines))
    else:
        # The next key moves up behind the dash, unless a comment is between the two.
        end, following = _end(text, first_value), pairs[1][0].start_mark.index
        spans.append((start, end if "#" in text[end:following] else following, ""))
    spans += [_lines_of(text, key, value) for key, value in pairs[1:] if key.value in gone]
    return spans


def _pin_spans(text: str, pins: yaml.MappingNode, edit: OverlayEdit) -> list[Span]:
    spans: list[Span] = []
    stays = [index for index, (path, _) in enumerate(pins.value) if path.value not in edit.unpinned]
    for index, (path, digest) in enumerate(pins.value):
        if index in stays:
            if path.value in edit.moved:
                spans.append((path.start_mark.index, path.end_mark.index, quoted(edit.moved[path.value])))
            if path.value in edit.after:
                spans.append((digest.start_mark.index, _end(text, digest), quoted(edit.after[path.value])))
        elif not pins.flow_style:
            spans.append(_lines_of(text, path, digest))
        elif index < stays[-1]:
            # With its comma.
            spans.append((path.start_mark.index, pins.value[index + 1][0].start_mark.index, ""))
    if pins.flow_style and stays[-1] < len(pins.value) - 1:
        spans.append((_end(text, pins.value[stays[-1]][1]), _end(text, pins.value[-1][1]), ""))
    return spans


def _lines_of(text: str, key: yaml.Node, value: yaml.Node) -> Span:
    return _line_start(text, key.start_mark.index), _line_end(text, _end(text, value)), ""


def _header_comment(text: str, node: yaml.Node) -> str:
    """The comment behind the `>` or `|` of a block scalar."""
    if not isinstance(node, yaml.ScalarNode) or node.style not in ("|", ">"):
        return ""
    found = re.search(r"[ \t]+#.*", text[node.start_mark.index :].partition("\n")[0])
    return found[0] if found else ""


def _end(text: str, node: yaml.Node) -> int:
    """Where the last thing that a node says ends: a block scalar's own end mark is behind the blank lines after it."""
    at = _last(node)
    return len(text[:at].rstrip()) if at and text[at - 1] == "\n" else at


def _last(node: yaml.Node) -> int:
    """Where a node's last scalar ends: a block's own end mark is at whatever comes after it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last(last[1] if isinstance(last, tuple) else last)
    end = node.end_mark.index
    return int(end)


def _dash(text: str, item: yaml.Node) -> int:
    """Where the dash of an item of a list is: in its first line, or alone in one before it."""
    start = _line_start(text, item.start_mark.index)
    # Between the two are blank lines, comments and anchors, and none of them begins with a dash.
    while start and not _DASH.match(text, start):
        start = _line_start(text, start - 1)
    found = _DASH.match(text, start)
    return found.end() - 1 if found else start


def _item_start(text: str, item: yaml.Node) -> int:
    """Where an item's lines begin, comments directly above it included."""
    dash = _dash(text, item)
    start = _line_start(text, dash)
    indent = text[start:dash]
    while start:
        above = _line_start(text, start - 1)
        line = text[above:start]
        if not line.startswith(f"{indent}#"):
            break
        start = above
    return start


def _with_newline(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_end(text: str, at: int) -> int:
    """Behind the newline of the line that contains `at`."""
    if at and text[at - 1] == "\n":
        return at
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1
