"""Fixtures for all tests. The builder's cache and the user's settings are never those of the person who runs them."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.dockerd import docker_engine

__all__ = ["docker_engine"]

_caches = itertools.count()
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
    # Not by `mktemp`, which reads the names of all that there are, each time.
    cache = tmp_path_factory.getbasetemp() / "caches" / str(next(_caches))
    cache.mkdir(parents=True)
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(cache))


# The files whose tests take longest, in CPU time: begun first, so that no core is idle while the last one ends.
_LONGEST = (
    "release/test_promote_faults.py", "release/test_wrong_responses.py", "release/test_lost_requests.py",
    "pulls/test_fetch_faults.py", "vllm/test_lint_flags.py", "vllm/test_lint_rules.py", "upkeep/test_drift_faults.py",
    "upkeep/test_drift.py", "checkpoint/test_quantize.py", "cli/test_first_hour.py", "pipeline/test_engines.py", "test_docs.py",
    "upkeep/test_twelve_pairs.py", "test_shipped.py", "pipeline/test_packages.py", "release/test_mirror.py",
    "upkeep/test_real_recipes.py", "pipeline/test_wheels.py", "serve/test_fleet_docker.py", "serve/test_smoke_docker.py",
)  # fmt: skip


def _place(item: pytest.Item) -> int:
    name = os.path.relpath(item.path, Path(__file__).parent)
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files. Refuse a property that a busy machine could fail, by settings that leave out the suite's."""
    items.sort(key=_place)
    for item in items:
        used = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        if used is not None and (used.deadline is not None or HealthCheck.too_slow not in used.suppress_health_check):
            raise pytest.UsageError(
                f"{item.nodeid}: its time is limited; suppress HealthCheck.too_slow, give no deadline"
            )
