"""Images with verdicts beside them, and policies, for tests of promotion. Their time is the clock's: the first second of 2026."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from builder.documents.policy import load_policy
from builder.oci.referrers import find_referrers, read_referrer
from builder.oci.registry.client import Registry
from builder.release.attest.read import open_document
from builder.release.attest.signing import Signing, signing_of
from builder.release.attest.store import Attested, attest
from builder.release.attest.trust import trust
from builder.release.promote.run import Order, Promoted, promote
from builder.util.context import Context
from builder.util.errors import InputError
from tests.support.clock import Owned
from tests.support.published import fetch, small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.signing import key_pair
from tests.support.verdicts import verdict_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SUITE = b"name: sample\n"


@dataclass
class Stage:
    """A registry with two images, a project with a suite, a policy and a key that it trusts."""

    host: str
    root: Path
    layouts: tuple[Path, Path]
    key: Path
    storage: Path
    count: int = 0
    digests: dict[str, str] = field(default_factory=dict)

    def repository(self) -> str:
        """A new repository with the images under the tags `one` and `two`."""
        self.count += 1
        name = f"team/case{self.count}"
        for tag, layout in zip(("one", "two"), self.layouts, strict=True):
            skopeo_copy(f"oci:{layout}:base", f"docker://{self.host}/{name}:{tag}")
            self.digests[tag] = Registry(self.host).manifest(name, tag)[2]
        return name

    def copy(self, repository: str) -> str:
        """A repository that holds what another one holds. The registry's storage is copied: blobs belong to all of them."""
        self.count += 1
        name = f"team/case{self.count}"
        storage = self.storage / "docker/registry/v2/repositories"
        shutil.copytree(storage / repository, storage / name)
        return name

    def policy(self, **changes: Any) -> Path:
        """Write the policy; a change of None leaves a key out."""
        document = {
            "name": "production",
            "suites": [{"name": "sample"}],
            "signers": [{"key": "gates/gate.pub"}],
            **changes,
        }
        path = self.root / "gates/production.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
        return path

    def signing(self, key: Path | None = None) -> Signing:
        made = signing_of(key or self.key, keyless=False, context=Context())
        assert made is not None
        return made

    def attach(
        self,
        repository: str,
        *,
        tag: str = "one",
        signing: Signing | None = None,
        unsigned: bool = False,
        **verdict: Any,
    ) -> Attested:
        """Attach a verdict about an image. It ended an hour ago unless `ended` is given."""
        verdict = {"ended": NOW - timedelta(hours=1), "suite_data": SUITE, **verdict}
        path = verdict_of(self.root / "verdict.json", verdict.pop("digest", self.digests[tag]), **verdict)
        by = None if unsigned else signing or self.signing()
        return attest(
            path.read_bytes(), path.name, f"{self.host}/{repository}:{tag}", signing=by, context=Owned().context
        )

    def order(self, repository: str, *, ref: str = "one", tag: str = "production", host: str = "") -> Order:
        loaded = load_policy(self.root / "gates/production.yaml")
        known = trust([each.option for each in loaded.policy.signers], root=loaded.root)
        return Order(f"{host or self.host}/{repository}:{ref}", tag, loaded, known)

    def promote(
        self, repository: str, *, signed: bool = True, host: str = "", ref: str = "one", **options: Any
    ) -> Promoted:
        signing = self.signing() if signed else None
        options = {"context": Owned().context, **options}
        return promote(self.order(repository, host=host, ref=ref), signing=signing, **options)

    def holds(self, repository: str, tag: str = "production") -> str | None:
        """What the registry says that the tag names, without this tool's client."""
        data = fetch(self.host, f"{repository}/manifests/{tag}")
        return None if data is None else Registry(self.host).manifest(repository, tag)[2]

    def summaries(self, repository: str, tag: str = "one") -> list[dict[str, Any]]:
        """The predicates of the VSAs beside an image."""
        client = Registry(self.host)
        found = []
        for each in find_referrers(client, repository, self.digests[tag]):
            try:
                opened = open_document(each.artifact_type, read_referrer(client, repository, each)[1])
            except InputError:
                continue  # what a test has broken
            if opened is not None and opened.kind == "promotion":
                found.append(json.loads(opened.data)["predicate"])
        return found


@contextmanager
def stage(root: Path) -> Iterator[Stage]:
    """The registry, running."""
    layouts = (small_base(root / "layout1"), small_base(root / "layout2", filler=64))
    project = root / "project"
    (project / "gates").mkdir(parents=True)
    (project / "gates/sample.yaml").write_bytes(SUITE)
    key, public = key_pair(root / "gate")
    (project / "gates/gate.pub").write_bytes(public.read_bytes())
    with registry(root / "registry", in_memory=True) as host:
        made = Stage(host, project, layouts, key, root / "registry/data")
        made.policy()
        yield made


def later(clock: Owned, **delta: float) -> Context:
    """A context at another time than the clock's."""
    moved = replace(clock)
    moved.clock.sleep(timedelta(**delta).total_seconds())
    return moved.context
