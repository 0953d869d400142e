"""A wheel as a base: the package's files, read member by member over HTTP ranges. There is no image behind it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.base.model import BaseFile, BaseImage, Distribution, EntryKind
from builder.documents.reference import BaseReference, Platform
from builder.net.address import basic, host_of, origin, parse_address
from builder.oci.types import OCI_CONFIG, OCI_MANIFEST, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError, UnreachableError
from builder.util.files import cache_dir, file_sha256, replacing, sha256, write_file
from builder.util.process import run
from builder.util.redact import without_secrets

if TYPE_CHECKING:
    import requests

# Where the official vLLM image has its packages, and its Python (read from that image's config and history).
OFFICIAL_ROOT = "usr/local/lib/python3.12/dist-packages"
OFFICIAL_PYTHON = "3.12"

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_TIMEOUT = 60.0


@dataclass(frozen=True)
class WheelLink:
    """A wheel that was found: where it is, its file name, and its SHA-256."""

    url: str
    filename: str
    sha256: str


class WheelBase:
    """`wheel:NAME==VERSION` from the package index, or `wheel:PATH` for a local file."""

    def __init__(self, reference: BaseReference, *, root: Path, context: Context) -> None:
        self.reference = reference.text
        self._what = reference.target
        self._root = root
        self._context = context

    def image(self, platform: Platform) -> BaseImage:
        """An image without layers that stands for the wheel; its digest is the wheel's."""
        link = self._link(platform)
        config = json.dumps(
            {
                "architecture": platform.architecture,
                "os": platform.os,
                **({"variant": platform.variant} if platform.variant else {}),
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": []},
            },
            separators=(",", ":"),
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": Descriptor(OCI_CONFIG, f"sha256:{sha256(config)}", len(config)).as_json(),
                "layers": [],
            },
            separators=(",", ":"),
        ).encode()
        return BaseImage(
            reference=self.reference,
            digest=f"sha256:{link.sha256}",
            manifest=Descriptor(OCI_MANIFEST, f"sha256:{sha256(manifest)}", len(manifest)),
            manifest_bytes=manifest,
            config_bytes=config,
            platform=platform,
            wheel=(link.filename, link.sha256),
        )

    def tree(self, platform: Platform, package: str) -> WheelTree:
        return WheelTree(self._link(platform), package)

    def blob(self, image: BaseImage, descriptor: Descriptor) -> AbstractContextManager[Iterator[bytes]]:
        raise InputError(f"{image.reference} has no blob {descriptor.digest}", hint="a wheel base has no layers")

    def _link(self, platform: Platform) -> WheelLink:
        if self._what.endswith(".whl"):
            return _local_link(self._root / self._what)
        name, _, version = self._what.partition("==")
        return find_wheel(name, version, platform, context=self._context)


def _local_link(path: Path) -> WheelLink:
    if not path.is_file():
        raise InputError(f"there is no wheel {path}", hint="a wheel base is wheel:NAME==VERSION or wheel:PATH.whl")
    return WheelLink(path.resolve().as_uri(), path.name, file_sha256(path))


def find_wheel(name: str, version: str, platform: Platform, *, context: Context) -> WheelLink:
    """The wheel of a release for a platform: found in the cache (a release never changes), else in the package index.

    Raises `InputError` when there is none, `UnreachableError` when the index does not answer.
    """
    remembered = cache_dir("wheels") / f"{name}-{version}-{platform.os}-{platform.architecture}.json"
    if remembered.is_file():
        try:
            return WheelLink(**json.loads(remembered.read_text()))
        except (ValueError, TypeError):
            remembered.unlink(missing_ok=True)
    if context.offline:
        raise InputError(
            f"--offline: where the wheel of {name} {version} is, is not in the cache", hint="run once with the network"
        )
    context.console.detail(f"looking for the wheel of {name} {version}")
    link = choose_wheel(name, version, platform)

    write_file(remembered, json.dumps(link.__dict__).encode())
    return link


def index_endpoint() -> str | None:
    """The index that pip is told to use, or None for the library's default."""
    configured = os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_INDEX_URL") or os.environ.get("UV_DEFAULT_INDEX")
    if configured:
        return configured
    import sys

    done = run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], timeout=60)
    return done.stdout.decode().strip() or None if done.returncode == 0 else None


def choose_wheel(name: str, version: str, platform: Platform) -> WheelLink:
    """The wheel that the package index has now. Raises as `find_wheel` does."""
    import requests
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from pypi_simple import PYPI_SIMPLE_ENDPOINT, NoSuchProjectError, PyPISimple

    configured = index_endpoint() or PYPI_SIMPLE_ENDPOINT
    # Links on a page are relative to its address: a password in that would be in the cache, the lock and messages.
    address = parse_address(configured)
    if address is None:
        raise InputError(
            f"the package index {without_secrets(configured)!r} is not an address",
            hint="check PIP_INDEX_URL, such as https://pypi.org/simple",
        )
    endpoint = f"{address.url}/"
    try:
        with index_session() as session, PyPISimple(endpoint, session=session) as client:
            page = client.get_project_page(name, timeout=_TIMEOUT)
    except NoSuchProjectError as error:
        raise InputError(
            f"the package index has no project {name!r}", hint="check the name in the recipe's base"
        ) from error
    except requests.RequestException as error:
        raise UnreachableError(
            f"the package index does not answer: {type(error).__name__}",
            details=[("index", host_of(endpoint))],
            hint="check the network, or PIP_INDEX_URL; with everything in the cache, --offline works without it",
        ) from error
    machine = _MACHINES.get(platform.architecture, platform.architecture)
    found = []
    for package in page.packages:
        if package.package_type != "wheel" or package.version != version:
            continue
        try:
            _, _, build, tags = parse_wheel_filename(package.filename)
        except InvalidWheelFilename:
            continue
        platforms = {tag.platform for tag in tags}
        fits = "any" in platforms or any(re.search(rf"linux.*_{machine}$", each) for each in platforms)
        if fits and package.digests.get("sha256"):
            found.append((build, package.filename, package))
    if not found:
        versions = sorted({package.version for package in page.packages if package.version})[-5:]
        raise InputError(
            f"there is no wheel of {name} {version} for {platform}",
            hint=f"some versions that the index has: {', '.join(versions)}",
        )
    _, filename, package = max(found, key=lambda each: (each[0], each[1]))
    return WheelLink(without_secrets(package.url), filename, package.digests["sha256"])


def index_session() -> requests.Session:
    """A session that sends the name and password of the index's address to the index's own host, and to no other."""
    import requests
    from requests.utils import get_netrc_auth

    address = parse_address(index_endpoint() or "")

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        url = request.url or ""
        if address is not None and address.basic and origin(url) == origin(address.url):
            request.headers["Authorization"] = address.basic
        elif (netrc := get_netrc_auth(url)) is not None:
            request.headers["Authorization"] = basic(*netrc)
        return request

    session = requests.Session()
    session.auth = authorize
    return session


@contextmanager
def open_wheel(link: WheelLink) -> Iterator[zipfile.ZipFile]:
    """The wheel as a zip whose members are read by range; a server without ranges costs one download into the cache."""
    import requests
    from remotezip import RangeNotSupported, RemoteIOError, RemoteZip

    if link.url.startswith("file:"):
        from urllib.request import url2pathname

        with zipfile.ZipFile(url2pathname(urlsplit(link.url).path)) as archive:
            yield archive
        return
    try:
        # One connection for all members: many small ranges are asked for, one after another.
        with index_session() as session:
            try:
                remote = RemoteZip(link.url, session=session, timeout=_TIMEOUT)
            except RangeNotSupported:
                remote = zipfile.ZipFile(_downloaded(link))
            with remote as archive:
                yield archive
    except (requests.RequestException, RemoteIOError) as error:
        raise UnreachableError(
            f"cannot read {link.filename}: {type(error).__name__}",
            details=[("from", urlsplit(link.url).hostname or "")],
            hint="check the network and try again; what was read already is kept",
        ) from error
    except zipfile.BadZipFile as error:
        raise UnreachableError(f"{link.filename} is not a whole zip file: {error}", hint="try again") from error


def _downloaded(link: WheelLink) -> Path:
    path = cache_dir("wheels") / link.filename
    if not path.is_file():
        with (
            index_session() as session,
            session.get(link.url, stream=True, timeout=_TIMEOUT) as answer,
            replacing(path) as stream,
        ):
            answer.raise_for_status()
            digest = hashlib.sha256()
            for piece in answer.iter_content(1 << 20):
                digest.update(piece)
                stream.write(piece)
            if digest.hexdigest() != link.sha256:
                raise MismatchError(
                    f"{link.filename} does not have the digest that the index promised",
                    details=[("wanted", link.sha256), ("found", digest.hexdigest())],
                    hint="try again; if it stays, the index or a proxy changes files",
                )
    return path


class WheelTree:
    """The package of a wheel. Every member that is read is checked against the wheel's RECORD."""

    root = OFFICIAL_ROOT
    python = OFFICIAL_PYTHON

    def __init__(self, link: WheelLink, package: str) -> None:
        self._link = link
        self._package = package
        self._members: dict[str, zipfile.ZipInfo] | None = None
        self._digests: dict[str, str] = {}
        self._distribution: Distribution | None = None
        self._known: dict[str, bytes] = {}

    @property
    def distribution(self) -> Distribution:
        self._open()
        assert self._distribution is not None  # noqa: S101  set by _open
        return self._distribution

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        members = self._open()
        folders = self._folders()
        wanted = [path for path in paths if path in members and path not in self._known]
        if wanted:
            with open_wheel(self._link) as archive:
                for path in wanted:
                    self._known[path] = self._checked(path, archive.read(path))
        found = {
            path: BaseFile(
                path, "file", 0o755 if members[path].external_attr >> 16 & 0o100 else 0o644, self._known[path]
            )
            for path in paths
            if path in members
        }
        return found | {path: BaseFile(path, "directory", 0o755) for path in paths if path in folders}

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, EntryKind] = {}
        for path in self._open():
            if path.startswith(prefix):
                head, slash, _ = path.removeprefix(prefix).partition("/")
                found[head] = "directory" if slash else "file"
        return found

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:  # noqa: ARG002
        return {}

    def _folders(self) -> set[str]:
        return {path[:at] for path in self._open() for at, letter in enumerate(path) if letter == "/"}

    def _open(self) -> dict[str, zipfile.ZipInfo]:
        """Read the table of contents, RECORD and METADATA once."""
        if self._members is not None:
            return self._members
        with open_wheel(self._link) as archive:
            members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            dist_info = next(
                (name.split("/")[0] for name in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)), None
            )
            if dist_info is None or f"{self._package}/__init__.py" not in members:
                raise InputError(
                    f"{self._link.filename} has no package {self._package!r}", hint="check the recipe's 'package'"
                )
            record = archive.read(f"{dist_info}/RECORD")
            self._known[f"{dist_info}/RECORD"] = record
        self._digests = {row[0]: row[1] for row in csv.reader(io.StringIO(record.decode())) if len(row) > 1}
        name, version = dist_info.removesuffix(".dist-info").split("-", 1)
        self._distribution = Distribution(name, version, dist_info)
        self._members = members
        return members

    def _checked(self, path: str, data: bytes) -> bytes:
        wanted = self._digests.get(path, "")
        found = "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        if wanted and wanted != found:
            raise MismatchError(
                f"{path} in {self._link.filename} is not what the wheel's RECORD says",
                details=[("wanted", wanted), ("found", found)],
                hint="try again; if it stays, the index or a proxy changes files",
            )
        return data
