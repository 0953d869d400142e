"""A publication that is killed at any moment: no tag ever names something incomplete, and the next run succeeds."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from builder.release.publish import Prepared, Wishes, publish
from tests.support.published import QUIET, held, patched_project, prepared, retarget, small_base
from tests.support.registry import registry, skopeo_copy

ROUNDS = 100
WISHES = Wishes(tags=("production",))


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Prepared]]:
    root = tmp_path_factory.mktemp("killed")
    with registry(root / "registry") as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/base/image:v1")
        yield host, prepared(patched_project(root / "project", f"{host}/base/image:v1"), to=f"{host}/team/first")


class Watcher(threading.Thread):
    """Asks for the tags of one repository as fast as it can, and keeps what was wrong. The publisher is another process."""

    def __init__(self, host: str, repository: str, tags: list[str]) -> None:
        super().__init__(daemon=True)
        self._host, self._repository, self._tags = host, repository, tags
        self.stop = threading.Event()
        self.problems: list[str] = []
        self.looks = 0

    def run(self) -> None:
        while not self.stop.is_set():
            for tag in self._tags:
                self.looks += 1
                try:
                    held(self._host, self._repository, tag, evidence=3)
                except AssertionError as error:
                    self.problems.append(str(error))


def killed_after(seconds: float, image: Prepared) -> bool:
    """Publish in a child process and kill it; whether it was killed before it was done."""
    child = os.fork()
    if child == 0:
        try:
            publish(image, WISHES, context=QUIET)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments(ready: tuple[str, Prepared]) -> None:
    host, image = ready
    began = time.monotonic()
    publish(retarget(image, f"{host}/team/measure"), WISHES, context=QUIET)
    usual = time.monotonic() - began
    chance = random.Random(7)
    killed = 0
    for number in range(ROUNDS):
        repository = f"team/run{number}"
        target = retarget(image, f"{host}/{repository}")
        watcher = Watcher(host, repository, [image.built.tags.immutable, "production"])
        watcher.start()
        killed += killed_after(chance.uniform(0, 1.2 * usual), target)
        if number % 4 == 0:
            publish(target, WISHES, context=QUIET)
            assert held(host, repository, "production", evidence=3) == image.built.top.digest
        watcher.stop.set()
        watcher.join(30)
        assert watcher.problems == []
        assert watcher.looks > 0
    assert killed > ROUNDS // 2


def test_two_publishers_at_once_both_succeed(ready: tuple[str, Prepared]) -> None:
    host, image = ready
    failures: list[BaseException] = []

    def run() -> None:
        try:
            publish(retarget(image, f"{host}/team/both"), WISHES, context=QUIET)
        except BaseException as error:  # noqa: BLE001  judged below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert held(host, "team/both", image.built.tags.immutable, evidence=3) == image.built.top.digest
