"""Fixtures for all tests. The builder's cache and the user's settings are never those of the person who runs them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.dockerd import docker_engine

__all__ = ["docker_engine"]

# How long an example takes is the machine's business.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

_FOREIGN = ("GITHUB_TOKEN", "HF_TOKEN", "HF_ENDPOINT", "SOURCE_DATE_EPOCH")

# A shell starts what it puts into the background with SIGINT ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in _FOREIGN or (
            name.startswith("BUILDER_") and name not in {"BUILDER_REQUIRE_SERVICES", "BUILDER_TEST_CACHE"}
        ):
            monkeypatch.delenv(name)
    cache: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(cache))
