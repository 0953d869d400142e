"""Fixtures for all tests. The builder's cache and the user's settings are never those of the person who runs them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.dockerd import docker_engine

__all__ = ["docker_engine"]

_FOREIGN = ("GITHUB_TOKEN", "HF_TOKEN", "HF_ENDPOINT", "SOURCE_DATE_EPOCH")

# No property fails because the machine is busy: neither by the time of one example, nor by that of drawing some. Loaded here,
# before any test is imported, since `@given` and `@settings` take over what is loaded when they are called.
settings.register_profile(
    "suite",
    settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a property that a busy machine could fail: one with settings of its own that leave out the suite's."""
    for item in items:
        used = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if used is not None and (used.deadline is not None or HealthCheck.too_slow not in used.suppress_health_check):
            raise pytest.UsageError(
                f"{item.nodeid}: its time is limited; suppress HealthCheck.too_slow, give no deadline"
            )
