"""Publication and verification on a base like the real image, beside docker, buildah and skopeo."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from bench.measure import OURS, Left, Row, Used, pairs, run, timed, used
from bench.place import Place, published
from bench.replay import replay, requests_of

_SLOW = 2
"""Pairs of what takes more than 20 seconds; the row says how many there were."""


def publication() -> Iterator[Row | Left]:
    """Warm, nothing new, without evidence, verified, to another registry, and cold."""
    with published() as place:
        yield from _warm(place)
        yield from _verified(place)
        yield from _elsewhere(place)
        yield from _cold(place)


def _publish(place: Place, target: str, *options: str) -> Used:
    return used(*OURS, "publish", "small", "--to", target, *options, cwd=place.project, env=place.env, wire=place.wire)


def _warm(place: Place) -> Iterator[Row | Left]:
    number = count()

    def fresh() -> str:
        return f"{place.host}/team/x{next(number)}"

    yield pairs(
        "publish a one-file change, warm",
        {
            "builder publish": lambda: _publish(place, fresh()),
            "its own requests, bare": _replayed(place, fresh()),
            "the same, --no-evidence": lambda: _publish(place, fresh(), "--no-evidence"),
            **_crane(place, fresh),
        },
        times=9,
    )
    yield pairs(
        "publish a one-file change, warm, --no-evidence",
        {
            "builder publish --no-evidence": lambda: _publish(place, fresh(), "--no-evidence"),
            "its own requests, bare": _replayed(place, fresh(), "--no-evidence"),
            "python -c pass": lambda: used(sys.executable, "-c", "pass"),
        },
        times=9,
    )
    again = fresh()
    _publish(place, again)
    yield pairs("publish again, nothing new", {"builder publish": lambda: _publish(place, again)}, times=9)
    if not shutil.which("crane"):
        yield Left("crane append and mutate", "crane is not on the PATH; it is in neither Debian 12 nor PyPI")


def _replayed(place: Place, target: str, *options: str) -> Callable[[], Used]:
    """The requests of one publication, again and again, each time to a repository of its own."""
    place.wire.recording = []
    _publish(place, target, *options)
    lines, place.wire.recording = place.wire.recording, None
    requests = requests_of(lines)
    name = target.removeprefix(f"{place.host}/")
    number = count()

    def call() -> Used:
        return timed(lambda: replay(requests, place.host, name, f"{name}-{next(number)}"), wire=place.wire)

    return call


def _crane(place: Place, fresh: Callable[[], str]) -> dict[str, Callable[[], Used]]:
    """The layer alone, appended to the base by crane, and one label: no check, and no evidence."""
    if not shutil.which("crane"):
        return {}
    done = run(*OURS, "build", "small", "--engine", "oci", "--json", cwd=place.project, env=place.env)
    layer = place.project / "dist/small/blobs/sha256" / json.loads(done)["layer"]["digest"][7:]

    def call() -> Used:
        target = fresh()
        script = (
            f"crane append -b {place.host}/vllm/base:v1 -f {layer} -t {target}:x && crane mutate --label a=b {target}:x"
        )
        return used("sh", "-c", script, wire=place.wire)

    return {"crane append and mutate": call}


def _verified(place: Place) -> Iterator[Row | Left]:
    reference = f"{place.host}/team/verified:latest"
    _publish(place, f"{place.host}/team/verified", "--tag", "latest")
    run(*OURS, "build", "small", "--engine", "oci", cwd=place.project, env=place.env)

    def ours(*arguments: str) -> Callable[[], Used]:
        return lambda: used(*OURS, *arguments, cwd=place.project, env=place.env, wire=place.wire)

    yield pairs(
        "verify an image in a registry",
        {
            "builder verify": ours("verify", reference),
            "builder verify --quick": ours("verify", reference, "--quick"),
            "builder build --engine oci": ours("build", "small", "--engine", "oci"),
            "skopeo inspect --raw": lambda: used(
                "skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}", wire=place.wire
            ),
        },
    )
    yield pairs("verify a layout", {"builder verify": ours("verify", "oci:dist/small")})


def _elsewhere(place: Place) -> Iterator[Row | Left]:
    from tests.support.registry import registry

    number = count()

    def ours() -> Used:
        with registry(place.folder / f"other{next(number)}") as host:
            return _publish(place, f"{host}/team/copy", "--no-evidence")

    def skopeo() -> Used:
        with registry(place.folder / f"other{next(number)}") as host:
            return used(
                "skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "--src-tls-verify=false",
                "--dest-tls-verify=false", f"docker://{place.host}/vllm/base:v1", f"docker://{host}/team/copy:v1",
                wire=place.wire,
            )  # fmt: skip

    def crane() -> Used:
        with registry(place.folder / f"other{next(number)}") as host:
            return used("crane", "cp", f"{place.host}/vllm/base:v1", f"{host}/team/copy:v1", wire=place.wire)

    peers = {"skopeo copy": _tidied(place, skopeo)} | (
        {"crane cp": _tidied(place, crane)} if shutil.which("crane") else {}
    )
    yield pairs(
        "publish to another registry, the base streamed",
        {"builder publish": _tidied(place, ours), **peers},
        times=3,
        warm=False,
        note="3 pairs, no warm-up",
    )


def _tidied(place: Place, call: Callable[[], Used]) -> Callable[[], Used]:
    def measured() -> Used:
        found = call()
        for each in place.folder.glob("other*"):
            shutil.rmtree(each)
        return found

    return measured


def _cold(place: Place) -> Iterator[Row | Left]:
    number = count()
    context = place.folder / "context"
    run(*OURS, "render", "small", "--output", str(context), cwd=place.project, env=place.env)

    def ours(*options: str) -> Callable[[], Used]:
        def call() -> Used:
            place.forget()
            return _publish(place, f"{place.host}/team/cold{next(number)}", *options)

        return call

    yield pairs(
        "publish, cold: a lock and empty caches",
        {"builder publish": ours(), "buildah build and push": lambda: _buildah(place, context)},
        times=_SLOW,
        warm=False,
        note=f"{_SLOW} pairs, no warm-up; ours counts what comes from the registry, not what comes from a package index",
    )
    yield _docker_row(place, context, ours())


def _docker_row(place: Place, context: Path, ours: Callable[[], Used]) -> Row | Left:
    from tests.support.dockerd import engine

    number = count()
    what = "publish, cold, beside docker"
    if not shutil.which("dockerd"):
        return Left(what, "there is no dockerd")

    def docker() -> Used:
        name = f"{place.host}/team/docker{next(number)}:x"
        with engine() as daemon:
            script = f"docker build -q -t {name} {context} && docker push -q {name}"
            env = {"DOCKER_HOST": daemon, "DOCKER_BUILDKIT": "1", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
            return used("sh", "-c", script, env=env, wire=place.wire)

    return pairs(
        what, {"builder publish": ours, "docker build and push": docker}, times=1, warm=False, note="1 pair, no warm-up"
    )


def _buildah(place: Place, context: Path) -> Used:
    driver = "overlay" if Path("/sys/module/overlay").exists() else "vfs"
    program = f"buildah --storage-driver {driver} --root {place.folder}/b --runroot {place.folder}/r"
    script = (
        f"{program} build --tls-verify=false --isolation chroot -q -t x {context} && "
        f"{program} push --tls-verify=false -q x docker://{place.host}/team/buildah:x"
    )
    found = used("sh", "-c", script, wire=place.wire)
    shutil.rmtree(place.folder / "b", ignore_errors=True)
    return found
