"""Strategies that damage sound inputs: bytes by blocks and numbers, JSON by its values."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

_ODD_TEXT = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "..",
        "/",
        "../../etc",
        "\u2028",
        "\ud800",
        "sha256:" + "0" * 64,
        "9999-12-31T23:59:59-23:00",
        "x" * 5000,
        "1e9",
        "ž",
    ]
)
_ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 64), 1 << 64), st.floats(allow_nan=True), _ODD_TEXT,
    st.just([]), st.just({}), st.just([None]), st.just({"a": 1}), st.just([[[[]]]]),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, whole: bytes, block: int) -> bytes:
    """Bytes of which some are changed, removed, repeated or moved, in places of `block` bytes too."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["byte", "bit", "number", "cut", "end", "repeat", "insert", "block", "splice"]))
        if not data:
            break
        if kind == "byte":
            data[at] = draw(st.integers(0, 255))
        elif kind == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            digits = [index for index, byte in enumerate(data) if 48 <= byte <= 57]
            if digits:
                data[draw(st.sampled_from(digits))] = draw(st.sampled_from(b"0123456789-"))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, block))]
        elif kind == "end":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = bytes(data[at : at + block]) * draw(st.integers(1, 3))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=20))
        elif kind == "block":
            start = at - at % block
            data[start : start + block] = draw(st.sampled_from([b"\0", b"\xff", b" ", b"7"])) * block
        else:
            other = draw(st.integers(0, max(len(data) - 1, 0)))
            data[at : at + block] = data[other : other + block]
    return bytes(data)


@st.composite
def mutated_json(draw: st.DrawFn, whole: Any) -> bytes:
    """A document of which some values are others, missing, or there in another place."""
    document = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["odd", "remove", "copy", "wrap"]))
        if kind == "odd":
            parent[key] = copy.deepcopy(draw(_ODD))
        elif kind == "remove":
            del parent[key]
        elif kind == "copy":
            other, name = draw(st.sampled_from(places))
            try:
                parent[key] = copy.deepcopy(other[name])
            except (KeyError, IndexError):
                continue
        else:
            parent[key] = [parent[key]]
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def _places(document: Any) -> Any:
    if isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _places(document[key])
