"""Passwords inside addresses, and tokens, are in no output, cache, link, result or bug report."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from builder.base.wheel import find_wheel
from builder.base.wheel_archive import open_wheel
from builder.cli.app import _bug
from builder.cli.console import Console
from builder.documents.reference import Platform
from builder.serve.smoke.client import Server as SmokeServer
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, UnreachableError
from tests.support.loopback import serving

PASSWORD = "Tr0ub4dor"
BASIC = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()


def wheel() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("small/__init__.py", "x = 1\n")
    return data.getvalue()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_package_indexs_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """It is sent to the index alone, also where the page's links are relative to an address that has it."""
    data = wheel()
    name = "small-1.0-py3-none-any.whl"

    def serve(handler: Any) -> None:
        if handler.path.endswith(".whl"):
            handler.say(200, data)
        else:
            home = other.url if elsewhere else ".."
            digest = hashlib.sha256(data).hexdigest()
            page = f'<a href="{home}/files/{name}#sha256={digest}">{name}</a>'
            handler.say(200, page.encode(), Content_Type="text/html")

    with serving(serve, "127.0.0.2") as other, serving(serve) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("://", f"://me:{PASSWORD}@") + "/simple/")
        monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path))
        link = find_wheel("small", "1.0", Platform.parse("linux/amd64"), context=Context())
        assert PASSWORD not in repr(link)
        with open_wheel(link, context=Context()) as archive:
            assert archive.read("small/__init__.py") == b"x = 1\n"
        assert {headers.get("Authorization") for _, _, headers in index.seen} == {BASIC}
        assert all("Authorization" not in headers for _, _, headers in other.seen)
        assert bool(other.seen) is elsewhere
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
    with pytest.raises(UnreachableError) as gone:
        find_wheel("other", "1.0", Platform.parse("linux/amd64"), context=Context())
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:{PASSWORD}@[")
    with pytest.raises(InputError) as wrong:
        find_wheel("other", "1.0", Platform.parse("linux/amd64"), context=Context())
    assert PASSWORD not in f"{gone.value.as_json()} {wrong.value.as_json()}"


def test_the_smoke_urls_password() -> None:
    with serving(lambda handler: handler.say(200)) as running:
        server = SmokeServer(running.url.replace("://", f"://me:{PASSWORD}@") + "/v1")
        assert server.health() is None
        assert server.url == running.url
        assert running.seen[0][2]["Authorization"] == BASIC
        with_key = SmokeServer(running.url.replace("://", f"://me:{PASSWORD}@"), key="k")
        assert with_key.health() is None
        assert running.seen[1][2]["Authorization"] == "Bearer k"
    with pytest.raises(BuilderError) as caught:
        SmokeServer(f"ftp://me:{PASSWORD}@host")
    assert PASSWORD not in str(caught.value.as_json())


def test_a_bug_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A library's own error may quote an address or a token."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["builder", "smoke", f"http://me:{PASSWORD}@host"])
    monkeypatch.setenv("HF_TOKEN", "hf_S3cret")
    try:
        raise RuntimeError(f"cannot ask https://me:{PASSWORD}@host/x with hf_S3cret")
    except RuntimeError as error:
        assert _bug(Console(json_mode=True), error) == 1
    printed = capfd.readouterr()
    [report] = tmp_path.glob("builder-bug-*.txt")
    for text in (printed.out, printed.err, report.read_text()):
        assert "https://host/x" in text or "http://host" in text
        assert PASSWORD not in text
        assert os.environ["HF_TOKEN"] not in text
