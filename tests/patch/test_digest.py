"""The digest of a diff holds everything that decides what it does: two diffs with one digest give one tree."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builder.patch.diff import parse
from builder.patch.model import Overlay
from builder.patch.stack import apply_stack
from builder.util.errors import BuilderError, InputError
from tests.support.trees import DictTree

LINES = [b"a", b"b", b"c", b"d", b"e", b"f", b"g"]
BASE = {
    "vllm/x.txt": b"\n".join(LINES) + b"\n",
    "vllm/y.txt": b"\n".join(LINES),
    "vllm/empty.txt": b"",
    "vllm/b c.txt": b"\n".join(LINES) + b"\n",
}
MODES = st.sampled_from([b"100644", b"100755", b"120000", b"100664"])
NAMES = st.sampled_from(
    [b"vllm/x.txt", b"vllm/y.txt", b"vllm/new.txt", b"vllm/empty.txt", b"vllm/b c.txt", b"tests/t.txt"]
)
MARKS = st.lists(
    st.one_of(
        st.builds(b"old mode %b".__mod__, MODES),
        st.builds(b"new mode %b".__mod__, MODES),
        st.builds(b"new file mode %b".__mod__, MODES),
        st.builds(b"deleted file mode %b".__mod__, MODES),
        st.builds(b"rename from %b".__mod__, NAMES),
        st.builds(b"rename to %b".__mod__, NAMES),
        st.builds(b"copy from %b".__mod__, NAMES),
        st.builds(b"copy to %b".__mod__, NAMES),
        st.sampled_from([b"similarity index 100%", b"index 0000000..e69de29", b"index 1111111..2222222 100755", b"index 1..2 120000"]),
    ),
    max_size=4,
)  # fmt: skip
HEADINGS = st.sampled_from([b"", b" def f():", b" class C:"])
BODIES = st.sampled_from([
    (b"-1,3 +1,3", b" a\n-b\n+B\n c\n"),
    (b"-5,3 +5,3", b" e\n-f\n+F\n g\n"),
    (b"-5,3 +5,3", b" e\n-f\n+F\n g\n\\ No newline at end of file\n"),
    (b"-0,0 +1,2", b"+new\n+file\n"),
    (b"-0,0 +1", b"+new\n\\ No newline at end of file\n"),
    (b"-1,7 +0,0", b"-a\n-b\n-c\n-d\n-e\n-f\n-g\n"),
    (b"-2,2 +2,3", b" b\n+x\n c\n"),
    (b"-1,2 +1,2", b" a\n-b\n+B\n c\n"),
])  # fmt: skip


@st.composite
def sections(draw: st.DrawFn) -> bytes:
    name = draw(NAMES)
    other = draw(st.one_of(st.just(name), NAMES))
    lines = []
    if draw(st.booleans()):
        lines += [b"diff --git a/" + name + b" b/" + other, *draw(MARKS)]
    if draw(st.integers(0, 3)):
        where, body = draw(BODIES)
        sides = draw(
            st.sampled_from(
                [(b"a/" + name, b"b/" + other), (b"/dev/null", b"b/" + other), (b"a/" + name, b"/dev/null")]
            )
        )
        lines += [b"--- " + sides[0], b"+++ " + sides[1], b"@@ " + where + b" @@" + draw(HEADINGS)]
        return b"\n".join(lines) + b"\n" + body
    return b"\n".join(lines) + b"\n"


def outcome(diff: bytes) -> Mapping[str, tuple[bytes, int]] | str | None:
    """The tree that a diff gives, with modes; a word for one that does not apply, None for one that is not sound."""
    try:
        parsed = parse(diff, "x.diff")
    except InputError:
        return None
    try:
        result = apply_stack([Overlay("x", parsed, "x.diff")], DictTree(BASE))
    except BuilderError:
        return "refused"
    tree = {path: (data, 0o644) for path, data in BASE.items()}
    for file in result.files:
        tree.pop(file.path, None)
        if file.after is not None:
            tree[file.path] = (file.after, file.mode)
    return tree


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(sections(), min_size=1, max_size=2).map(b"".join))
@example(
    b"diff --git a/vllm/x.txt b/vllm/x.txt\nold mode 120000\n--- a/vllm/x.txt\n+++ b/vllm/x.txt\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
)
def test_the_canonical_form_gives_what_the_diff_gives(diff: bytes) -> None:
    """All diffs with one digest have this canonical form: when each gives what it gives, they give one tree."""
    found = outcome(diff)
    if found is None:
        return
    parsed = parse(diff, "x.diff")
    again = parse(parsed.canonical, "x.diff")
    assert again.digest == parsed.digest
    assert again.canonical == parsed.canonical
    assert outcome(parsed.canonical) == found


KNOWN: dict[str, Mapping[str, tuple[bytes, int]] | str] = {}


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sections())
def test_no_two_diffs_with_one_digest_give_two_trees(diff: bytes) -> None:
    found = outcome(diff)
    if found is not None:
        assert KNOWN.setdefault(parse(diff, "x.diff").digest, found) == found


def test_a_new_mode_counts_without_the_old_one() -> None:
    plain = b"--- a/vllm/x.txt\n+++ b/vllm/x.txt\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
    head = b"diff --git a/vllm/x.txt b/vllm/x.txt\n"
    digests = {
        parse(head + marks + plain, "x").digest
        for marks in (b"", b"new mode 100755\n", b"new mode 100644\n", b"old mode 100644\nnew mode 100755\n")
    }
    assert len(digests) == 4
    executable = outcome(head + b"new mode 100755\n" + plain)
    assert isinstance(executable, dict)
    assert executable["vllm/x.txt"] == (BASE["vllm/x.txt"].replace(b"b", b"B"), 0o755)
    alone = outcome(head + b"new mode 100755\n")
    assert isinstance(alone, dict)
    assert alone["vllm/x.txt"][1] == 0o755


@pytest.mark.parametrize(
    ("diff", "digest"),
    [
        (b"--- a/vllm/x.txt\n+++ b/vllm/x.txt\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n", "1a1f33f4"),
        (b"diff --git a/vllm/x.txt b/vllm/x.txt\nold mode 100644\nnew mode 100755\n", "336f8745"),
    ],
)
def test_digests_of_sound_diffs_stay(diff: bytes, digest: str) -> None:
    """Locks that people have committed name them."""
    assert parse(diff, "x").digest.startswith(digest)
