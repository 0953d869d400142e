"""A large blob goes up in one request; what breaks off is continued, or sent again in chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.oci.registry import upload as uploads
from builder.oci.registry.client import Registry
from builder.oci.registry.upload import upload
from builder.oci.types import Descriptor
from builder.util.errors import UnreachableError
from tests.support.clock import Owned
from tests.support.faultproxy import LOST, WRONG, Plan, fault_proxy
from tests.support.published import fetch
from tests.support.quirks import Quirks, quirky_registry
from tests.support.registry import registry

CHUNK = 8192
DATA = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(2000))


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "CHUNK", CHUNK)
    monkeypatch.setattr(uploads, "_MODEST", 4096)


def blob(data: bytes = DATA) -> Descriptor:
    return Descriptor("", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


@contextmanager
def source(_blob: Descriptor) -> Iterator[Iterator[bytes]]:
    yield (DATA[start : start + 1000] for start in range(0, len(DATA), 1000))


@contextmanager
def truncated(_blob: Descriptor) -> Iterator[Iterator[bytes]]:
    yield iter([DATA[:1000], DATA[1000:2000]])


def sent(quirks: Quirks, count: int = 1) -> list[tuple[str, int]]:
    """The bodies of the uploads of `count` blobs, the same one in several repositories, by one client."""
    with quirky_registry(quirks) as target:
        client = Registry(target.host, context=Owned().context)
        for number in range(count):
            upload(client, f"team/x{number}", blob(), source)
            assert target.blobs[f"team/x{number}"][blob().digest] == DATA
        return [each for each in target.sizes if each[1]]


def test_a_large_blob_goes_up_in_one_request() -> None:
    assert sent(Quirks()) == [("PUT", len(DATA))]


def test_what_breaks_off_is_continued_where_it_broke_off() -> None:
    arrived = 3 * CHUNK
    bodies = sent(Quirks(largest_put=arrived, put=500))
    assert bodies[0] == ("PUT", len(DATA))
    assert {size for _, size in bodies[1:-1]} == {CHUNK}
    assert sum(size for _, size in bodies[1:]) == len(DATA) - arrived


@pytest.mark.parametrize("status", [405, 413])
def test_a_registry_that_refuses_the_whole_gets_chunks_and_is_not_asked_again(status: int) -> None:
    bodies = sent(Quirks(largest_put=CHUNK, put=status), count=2)
    assert [size for method, size in bodies if method == "PUT"].count(len(DATA)) == 1
    assert sum(size for _, size in bodies[1:]) == 2 * len(DATA)


def test_a_registry_that_takes_neither_is_named() -> None:
    with pytest.raises(UnreachableError, match="413"):
        sent(Quirks(largest_put=CHUNK, put=413, chunks=405))


def test_a_source_that_ends_early_is_an_error() -> None:
    with quirky_registry(Quirks()) as target, pytest.raises(UnreachableError, match="truncated at its source"):
        upload(Registry(target.host, context=Owned().context), "team/x", blob(), truncated)


@pytest.mark.parametrize("fault", [*LOST, *WRONG])
def test_a_single_fault_in_every_position(fault: str, tmp_path: Path) -> None:
    plan = Plan()
    outcomes = []
    with registry(tmp_path / "r") as host, fault_proxy(host, plan) as proxy:
        for position in range(5):
            plan.fault, plan.first, plan.seen = fault, position, 0
            repository = f"team/run{position}"
            try:
                upload(Registry(proxy, context=Owned().context), repository, blob(), source)
                assert fetch(host, f"{repository}/blobs/{blob().digest}") == DATA
                outcomes.append("done")
            except UnreachableError:
                outcomes.append("unreachable")
    assert outcomes.count("done") >= 3, outcomes
