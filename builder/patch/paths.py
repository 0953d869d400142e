"""Paths in diffs: which are safe, and git's way of quoting them."""

from __future__ import annotations

import re
from collections.abc import Callable

from builder.util.errors import BuilderError

_ESCAPES = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b'"': 34, b"\\": 92}

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN = re.compile(rb"[ !#-\[\]-~]*")

Fail = Callable[[str], BuilderError]


def check_path(name: bytes, fail: Fail) -> str:
    """A relative path that stays where it is: no empty parts, `.`, `..` or control characters, nothing below `.git`."""
    try:
        path = name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fail(f"the path {name!r} is not UTF-8") from error
    if path.startswith("/"):
        raise fail(f"{path!r} is an absolute path")
    parts = path.split("/")
    if ".." in parts:
        raise fail(f"{path!r} leaves the tree with '..'")
    if any(part in ("", ".") for part in parts):
        raise fail(f"{path!r} has an empty part")
    if any(part.lower() == ".git" for part in parts):
        raise fail(f"{path!r} reaches into a .git folder")
    if _CONTROL.search(path):
        control = fail(f"{path!r} has a control character")
        control.hint = "no file of such a name is taken: take it out of the diff, or rename it"
        raise control
    return path


def quote(path: str, *, always: bool = False) -> bytes:
    """A path as git prints it with its default `core.quotePath`; `always` puts plain ones in quotes too."""
    data = path.encode()
    if not always and _PLAIN.fullmatch(data):
        return data
    out = bytearray(b'"')
    for byte in data:
        if byte in b'"\\':
            out += b"\\" + bytes([byte])
        elif 32 <= byte < 127:
            out.append(byte)
        else:
            out += b"\\%03o" % byte
    return bytes(out + b'"')


def unquote(text: bytes, fail: Fail) -> tuple[bytes, bytes]:
    """Read a quoted path at the beginning of `text`: the path, and what is behind it."""
    out = bytearray()
    at = 1
    while at < len(text):
        byte = text[at : at + 1]
        if byte == b'"':
            return bytes(out), text[at + 1 :]
        if byte != b"\\":
            out += byte
            at += 1
            continue
        escape = text[at + 1 : at + 2]
        octal = text[at + 1 : at + 4]
        if escape in _ESCAPES:
            out.append(_ESCAPES[escape])
            at += 2
        elif len(octal) == 3 and all(digit in b"01234567" for digit in octal) and int(octal, 8) < 256:
            out.append(int(octal, 8))
            at += 4
        else:
            raise fail("a quoted path with an escape that git does not write")
    raise fail("a quoted path without its closing quote")
