"""pip's configuration files, read as pip reads them: each layout is put to pip itself, in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from builder.base.pip_config import configured_index

# Asks pip's own reader for every layout, since starting pip for each would take seconds.
_PIP = """
import json, os, sys
from pip._internal.configuration import Configuration
from pip._internal.exceptions import PipError
found = []
for environment in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(environment)
    configuration = Configuration(isolated=False)
    try:
        configuration.load()
        found.append(configuration.get_value("global.index-url").strip() or None)
    except PipError:
        found.append(None)
print(json.dumps(found))
"""
LAYOUTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing": ({}, {}),
    "legacy": ({"home/.pip/pip.conf": "[global]\nindex-url = https://legacy/\n"}, {}),
    "new wins": (
        {
            "home/.pip/pip.conf": "[global]\nindex-url = https://legacy/\n",
            "home/.config/pip/pip.conf": "[global]\nindex_url=https://new/\n",
        },
        {},
    ),
    "XDG_CONFIG_HOME": (
        {"own/pip/pip.conf": "[global]\n--Index-URL: https://own/\n"}, {"XDG_CONFIG_HOME": "own"},
    ),
    "machine": ({"a/pip/pip.conf": "[global]\nindex-url=https://a/\n"}, {"XDG_CONFIG_DIRS": "a:b"}),
    "the last folder of the machine wins": (
        {"a/pip/pip.conf": "[global]\nindex-url=https://a/\n", "b/pip/pip.conf": "[global]\nindex-url=https://b/\n"},
        {"XDG_CONFIG_DIRS": "a:b"},
    ),
    "user before machine": (
        {"a/pip/pip.conf": "[global]\nindex-url=https://a/\n", "home/.pip/pip.conf": "[global]\nindex-url=https://u/\n"},
        {"XDG_CONFIG_DIRS": "a"},
    ),
    "named, and the user's is passed over": (
        {"named.conf": "[global]\ntimeout=9\n", "home/.pip/pip.conf": "[global]\nindex-url=https://u/\n"},
        {"PIP_CONFIG_FILE": "named.conf"},
    ),
    "named": ({"named.conf": "[global]\nindex-url=https://named/\n"}, {"PIP_CONFIG_FILE": "named.conf"}),
    "named, and absent": (
        {"home/.pip/pip.conf": "[global]\nindex-url=https://u/\n"}, {"PIP_CONFIG_FILE": "absent.conf"},
    ),
    "no files": ({"home/.pip/pip.conf": "[global]\nindex-url=https://u/\n"}, {"PIP_CONFIG_FILE": os.devnull}),
    "another section": ({"home/.pip/pip.conf": "[install]\nindex-url=https://u/\n"}, {}),
    "other case": ({"home/.pip/pip.conf": "[Global]\nindex-url=https://u/\n"}, {}),
    "damaged": ({"home/.pip/pip.conf": "index-url=https://u/\n"}, {}),
    "not text": ({"home/.pip/pip.conf": "[global]\nindex-url=https://u/\\xff\n"}, {}),
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="pip has other files elsewhere")
def test_every_layout_is_read_as_pip_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments = []
    for name, (files, variables) in LAYOUTS.items():
        root = tmp_path / name.replace(" ", "-")
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(text.encode().replace(b"\\xff", b"\xff"))
        placed = {
            key: ":".join(each if each.startswith("/") else str(root / each) for each in value.split(":"))
            for key, value in variables.items()
        }
        environments.append({"HOME": str(root / "home"), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **placed})
    done = subprocess.run(
        [sys.executable, "-c", _PIP], input=json.dumps(environments), capture_output=True, text=True, check=True
    )
    found = []
    for environment in environments:
        for key in ("PIP_CONFIG_FILE", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
            monkeypatch.delenv(key, raising=False)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr("locale.getpreferredencoding", lambda **_: "utf-8")
        found.append(configured_index())
    assert dict(zip(LAYOUTS, found, strict=True)) == dict(zip(LAYOUTS, json.loads(done.stdout), strict=True))
    assert sum(each is not None for each in found) >= 7
