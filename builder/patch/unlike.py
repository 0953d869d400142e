"""What people take for a diff and is none, or was changed on its way: packed files, other encodings, pages, a server's error."""

from __future__ import annotations

import base64
import re

from builder.patch.hunkreader import DiffError

# What the first bytes of other files are, and what makes text of them.
_PACKED = {
    b"\x1f\x8b": ("compressed with gzip", "gunzip"),
    b"BZh": ("compressed with bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("compressed with xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unzstd"),
    b"PK\x03\x04": ("a zip archive", "unzip"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "7z x"),
    b"Rar!\x1a\x07": ("a RAR archive", "unrar x"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "unlz4"),
}
_UTF32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF16 = {b"\xff\xfe": "UTF-16LE", b"\xfe\xff": "UTF-16BE"}
# What a page has in place of characters (HTML standard, "serializing": `&`, `<`, `>`; programs escape quotes too).
_ENTITY = re.compile(rb"&(?:lt|gt|amp|quot|#39|#x27|#34);")
_BARE = re.compile(rb"[<>]|&(?!(?:lt|gt|amp|quot|#39|#x27|#34);)")
_TAG = re.compile(
    rb"</?(?:!doctype|html|head|title|meta|link|style|script|body|main|div|span|table|tbody|tr|td|th|pre|code|p|br|a|b|i)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_JSON = re.compile(rb'\[?\s*\{\s*"')
# What GitHub's pages and its API say in place of a large diff.
_TOO_LARGE = re.compile(rb"Sorry, th(?:is|e) diff|diff exceeded the maximum|\"too_large\"")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]{40,}={0,2}")
_SHOWN = 80


def check_text(data: bytes, where: str, *, fetched: bool) -> None:
    """Raise `DiffError`, naming what it is, for a file that is not the text of a diff as it was made."""
    for start, (what, tool) in _PACKED.items():
        if data.startswith(start):
            raise DiffError(f"{where} is {what}, not a diff", hint=f"unpack it with `{tool}`, and name the diff inside")
    if data[257:262] == b"ustar":
        raise DiffError(
            f"{where} is a tar archive, not a diff", hint="unpack it with `tar -x`, and name the diff inside"
        )
    if data.startswith(_UTF32):
        raise DiffError(f"{where} is UTF-32 text", hint="convert it: iconv -f UTF-32 -t UTF-8 FILE")
    if b"\n" not in data and data.count(b"\r") > 1:
        raise DiffError(
            f"{where} has the line endings of an old Mac", hint="convert it: tr '\\r' '\\n' < FILE > FIX.diff"
        )
    name = _UTF16.get(data[:2])
    if name is None and len(data) > 3 and (start := data[:400]).count(0) * 3 > len(start):
        name = "UTF-16LE" if start[1::2].count(0) > start[::2].count(0) else "UTF-16BE"
    if name is not None:
        raise DiffError(
            f"{where} is {name} text, as PowerShell's `>` writes it",
            hint=f"convert it: iconv -f {'UTF-16' if data[:2] in _UTF16 else name} -t UTF-8 FILE",
        )
    # Such lines would enter a new file as they are. A server that is asked for a diff does not escape it.
    if not fetched and b"&" in data and _ENTITY.search(data) and _is_escaped(data):
        raise DiffError(
            f"{where} has `&lt;`, `&gt;` or `&amp;` in place of each such character, as the source of a page",
            hint="save the diff itself, not its page; if these characters are meant, write a line with a bare `<` above the diff",
        )


def _is_escaped(data: bytes) -> bool:
    """Whether added lines have what a page has in place of characters, and no such character is left bare.

    In lines that the file must have, the file tells. Around the diff, the page's own tags do not count.
    """
    lines = data.split(b"\n")
    if any(line[:1] in (b" ", b"-") and _ENTITY.search(line) for line in lines):
        return False
    return not any(_BARE.search(line if line[:1] in (b" ", b"+", b"-") else _TAG.sub(b"", line)) for line in lines)


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return b""


def no_diff(data: bytes, where: str, *, fetched: bool) -> DiffError:
    """The error for text in which no file section is."""
    text = data.strip()
    start = text[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return DiffError(
            f"{where} is an HTML page, not a diff",
            hint="the server's response was a page; fetch it again"
            if fetched
            else "save the diff itself, not its page",
        )
    if _JSON.match(start):
        what = f"{where} is JSON, not a diff"
    elif start.startswith(b"version https://git-lfs"):
        what = f"{where} is a pointer of Git LFS, not a diff"
    else:
        what = f"{where} has no diff in it"
    first = text.split(b"\n", 1)[0].decode("utf-8", "replace")
    shown = first[:_SHOWN] + ("..." if len(first) > _SHOWN else "")
    if _BASE64.fullmatch(text) and b"\n+++ " in _decoded(text):
        return DiffError(f"{where} is a diff in base64", hint="decode it: base64 --decode FILE > FIX.diff")
    hint = "a unified diff has lines `--- a/FILE` and `+++ b/FILE`"
    if _TOO_LARGE.search(data):
        hint = "GitHub does not show a diff this large: list the pull request with `pull:`, which asks git then, or make it with\n`git diff`"
    error = DiffError(what, hint=hint)
    error.details = (("begins", shown),)
    return error
