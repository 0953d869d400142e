"""The page: whole in one file, nothing runs, nothing is fetched, and every text stays text. Also looked at, in Chromium."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from builder.documents.verdict import Verdict
from builder.gate.adr import decision_record
from builder.gate.assemble import Written, write_run
from builder.gate.page import page
from builder.util.files import file_sha256
from tests.support.chatserver import ChatServer, chatting, prompt_of
from tests.support.services import require
from tests.support.suites import row, run, say, write_suite

NASTY = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script></pre>&amp;"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Written:
    root = tmp_path_factory.mktemp("page")
    rows = [row(f"r{number:02}", legal=["ano", "ne", NASTY][number % 3], secret="hunter2") for number in range(30)]
    rows[4] = {**rows[4], "id": NASTY}
    suite = write_suite(
        root, rows, require=[{"metric": "agreement", "min": 0.9}, {"count": "over_cap", "max": 9}], prompt_cap=99
    )

    def script(_server: ChatServer, body: Mapping[str, Any], _handler: Any) -> Any:
        number = int(prompt_of(body)[5:7]) if prompt_of(body).startswith("ask r") else 4
        return {5: NASTY, 7: {"content": NASTY, "finish_reason": "length"}}.get(
            number, say(legal=["ano", "ne", NASTY][(number + (number > 20)) % 3])
        )

    with chatting(script, model=NASTY.replace("/", "")) as server, chatting(script) as reference:
        return write_run(run(root, suite, server, reference=reference), root / "dist/gate", redact=False)


class Tags(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.values: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += [value or "" for _, value in attrs]


def tags(html: str) -> Tags:
    found = Tags()
    found.feed(html)
    return found


def test_nothing_runs_and_nothing_is_fetched(shown: Written) -> None:
    html = shown.html.read_text()
    found = tags(html)
    assert not found.names & {"script", "img", "link", "iframe", "object", "embed", "form", "base", "image", "use", "a"}
    assert not {name for name in found.attributes if name.startswith("on") or name in ("src", "href", "action")}
    assert "url(" not in html
    assert "default-src 'none'" in html
    assert html.count("&lt;img src=x onerror=") > 5


def test_what_it_shows(shown: Written) -> None:
    html = re.sub(r"\s+", " ", shown.html.read_text())
    for text in ("FAILED", "unbound", "unsigned", "19 / 30", "not shown to be", "pairs can show a margin of", "expected (down)", "by prompt length", "Latency: median", "truncated 1", "unparsable 1", "Rows that did not pass (11)"):  # fmt: skip
        assert text in html, text


def test_private_rows_can_be_left_out(shown: Written) -> None:
    lines = [json.loads(line) for line in shown.rows.read_text().splitlines()]
    html = page(shown.verdict, lines, redact=True)
    assert "ask r05" not in html
    assert "hunter2" not in html
    assert lines[5]["sha256"] in html
    bare = page(shown.verdict, [])
    assert "ask r05" not in bare
    assert "19 / 30" in re.sub(r"\s+", " ", bare)


def test_redacted_files_have_ids_and_hashes_only(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row("r1", legal="hunter2"), row("r2", legal="hunter3")])
    with chatting(lambda _s, _b, _h: say(legal="hunter2")) as server:
        written = write_run(run(tmp_path, suite, server, redact=True), tmp_path / "dist/gate", redact=True)
    assert len(list((tmp_path / "dist/gate").iterdir())) == 3
    for path in (written.rows, written.json, written.html):
        assert path.parent == tmp_path / "dist/gate"
        assert b"hunter" not in path.read_bytes()
        assert b"ask r" not in path.read_bytes()
    # The log that the verdict names is the one that is kept, where only its owner can read it.
    assert written.private == written.logs == tmp_path / "dist/gate.private" / f"{written.json.stem}.logs"
    assert stat.S_IMODE(written.private.parent.stat().st_mode) == 0o700
    (log,) = written.private.rglob("*.eval")
    verdict = Verdict.parse(written.json.read_bytes())
    assert verdict.config("inspect log") == file_sha256(log)
    assert verdict.config("results") is not None


def test_the_decision_record_has_madrs_headings_and_no_markup_of_others(shown: Written) -> None:
    text = decision_record(shown.verdict)
    headings = re.findall(r"^(#+ .*)$", text, re.MULTILINE)
    assert headings[1:] == [
        "## Context and Problem Statement", "## Decision Drivers", "## Considered Options", "## Decision Outcome",
        "### Consequences", "### Confirmation", "## More Information",
    ]  # fmt: skip
    assert "<img" not in text
    assert "The verdict is unsigned" in text
    assert "status: rejected" in text


def chromium(page: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={folder}", "--window-size=1100,1400", *more, page.as_uri()],
        capture_output=True, check=True, timeout=240,
    )  # fmt: skip


def test_chromium_shows_it(shown: Written, tmp_path: Path) -> None:
    require("chromium")
    picture = tmp_path / "page.png"
    chromium(shown.html, tmp_path / "profile", f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    # A page that shows nothing compresses to a few kilobytes.
    assert picture.stat().st_size > 30_000
    document = chromium(shown.html, tmp_path / "profile", "--dump-dom").stdout.decode()
    assert "<title>small: FAILED</title>" in document
    assert not tags(document).names & {"script", "img"}
