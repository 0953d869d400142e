"""Publication and verification on a base like the real image, beside docker, buildah and skopeo."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from bench.measure import OURS, Left, Row, Used, pairs, run, used
from bench.place import Place, published

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
            "the same, --no-evidence": lambda: _publish(place, fresh(), "--no-evidence"),
            "as many HEAD requests": _replayed(place, fresh()),
        },
    )
    again = fresh()
    _publish(place, again)
    yield pairs("publish again, nothing new", {"builder publish": lambda: _publish(place, again)})
    yield Left("crane append and mutate", "crane is in neither Debian 12 nor PyPI")


def _replayed(place: Place, target: str) -> Callable[[], Used]:
    """As many bare requests one after another on one connection as a publication makes."""
    wanted = _publish(place, target).requests

    def call() -> Used:
        from bench.measure import timed

        def ask() -> None:
            name, _, port = place.host.partition(":")
            with socket.create_connection((name, int(port))) as connection, connection.makefile("rb") as answers:
                for _ in range(wanted):
                    connection.sendall(
                        f"HEAD /v2/vllm/base/manifests/v1 HTTP/1.1\r\nHost: {place.host}\r\n\r\n".encode()
                    )
                    while answers.readline().strip():
                        pass

        return timed(ask)

    return call


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

    yield pairs(
        "publish to another registry, the base streamed",
        {"builder publish": _tidied(place, ours), "skopeo copy": _tidied(place, skopeo)},
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
