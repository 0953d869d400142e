"""A publication that is killed at any request: no tag ever names something incomplete, and the next run succeeds."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from builder.oci.registry.client import Registry
from builder.release.publish import Prepared, PublishOptions, publish
from tests.support.published import QUIET, held, patched_project, prepared, retarget, small_base
from tests.support.registry import registry, skopeo_copy

OPTIONS = PublishOptions(tags=("production",))


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Prepared]]:
    root = tmp_path_factory.mktemp("killed")
    with registry(root / "registry", in_memory=True) as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/base/image:v1")
        yield host, prepared(patched_project(root / "project", f"{host}/base/image:v1"), to=f"{host}/team/first")


def killed_at(image: Prepared, number: int, *, after: bool) -> bool:
    """Publish in a child process that kills itself at its request `number`; whether it came to that.

    `after` kills it when the registry has done what was asked, and the publisher does not know yet.
    """
    child = os.fork()
    if child == 0:
        send, count, lock = Registry.send, itertools.count(1), threading.Lock()

        def counted(*arguments: Any, **options: Any) -> Any:
            with lock:
                mine = next(count) == number
            if mine and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            response = send(*arguments, **options)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return response

        Registry.send = counted  # type: ignore[method-assign]
        try:
            publish(image, OPTIONS, context=QUIET)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_every_request(ready: tuple[str, Prepared], after: bool) -> None:
    """No tag names anything incomplete, whichever request was the last; the next run ends what this one began."""
    host, image = ready
    tags = [image.built.tags.immutable, "production"]
    kills = 0
    for number in itertools.count(1):
        repository = f"team/run{number}{'b' if after else 'a'}"
        target = retarget(image, f"{host}/{repository}")
        if not killed_at(target, number, after=after):
            break
        kills += 1
        for tag in tags:
            held(host, repository, tag, evidence=4)
        if number % 3 == 0:
            publish(target, OPTIONS, context=QUIET)
            assert held(host, repository, "production", evidence=4) == image.built.top.digest
    # Blobs, manifests, evidence and tags: each takes more than one request.
    assert kills > 20


def test_two_publishers_at_once_both_succeed(ready: tuple[str, Prepared]) -> None:
    host, image = ready
    failures: list[BaseException] = []

    def run() -> None:
        try:
            publish(retarget(image, f"{host}/team/both"), OPTIONS, context=QUIET)
        except BaseException as error:  # noqa: BLE001  judged below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert held(host, "team/both", image.built.tags.immutable, evidence=4) == image.built.top.digest
