"""A publication through proxies that spoil one request or all: what comes of it is looked at in the registry itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.oci.registry import upload
from builder.release.publish import Prepared, PublishOptions, publish
from builder.util.errors import UnreachableError
from tests.support.clock import Owned
from tests.support.faultproxy import Plan, fault_proxy
from tests.support.published import held, patched_project, prepared, retarget, small_base
from tests.support.registry import registry, skopeo_copy

OPTIONS = PublishOptions(tags=("production",))


class Scene:
    """A base registry and a target, each behind a proxy that follows one plan."""

    def __init__(self, target: str, proxy: str, plan: Plan, image: Prepared) -> None:
        self.target, self.proxy, self.plan, self.image = target, proxy, plan, image
        self.count = 0

    def publish(self, fault: str | None, first: int, *, lasting: bool = False) -> tuple[str, str | None]:
        """Publish to a new repository with one fault; `done` or `unreachable`, and the digest of the moved tag."""
        self.count += 1
        repository = f"team/run{self.count}"
        plan = self.plan
        plan.fault, plan.first, plan.lasting, plan.seen = fault, first, lasting, 0
        plan.requests.clear()
        try:
            # Pauses end at once, and no limit depends on how busy this machine is.
            publish(retarget(self.image, f"{self.proxy}/{repository}"), OPTIONS, context=Owned().context)
            outcome = "done"
        except UnreachableError:
            outcome = "unreachable"
        immutable = held(self.target, repository, self.image.built.tags.immutable, evidence=3)
        moved = held(self.target, repository, "production", evidence=3, complete=immutable)
        assert immutable in (None, self.image.built.top.digest)
        assert moved in (None, self.image.built.top.digest)
        assert moved is None or immutable is not None
        if outcome == "done":
            assert immutable == moved == self.image.built.top.digest
        return outcome, moved


@contextmanager
def fault_scene(root: Path) -> Iterator[Scene]:
    """A patched project, ready to be published again and again, below `root`."""
    plan = Plan()
    patch = pytest.MonkeyPatch()
    # Small chunks, so that a layer of the base takes several. In one request: tests/oci/test_upload.py.
    patch.setattr(upload, "CHUNK", 8192)
    patch.setattr(upload, "WHOLE", False)
    with registry(root / "base") as base, registry(root / "target", in_memory=True) as target:
        skopeo_copy(f"oci:{small_base(root / 'layout', filler=30_000)}:base", f"docker://{base}/base/image:v1")
        with fault_proxy(base, plan) as base_proxy, fault_proxy(target, plan) as proxy:
            project = patched_project(root / "project", f"{base_proxy}/base/image:v1")
            yield Scene(target, proxy, plan, prepared(project, to=f"{proxy}/team/first"))
    patch.undo()
