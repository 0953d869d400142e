"""A wheel as an archive: where the package index has it, its members by HTTP ranges, and the whole of it checked by its digest."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import weakref
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from builder.base.pip_config import configured_index
from builder.net.address import basic, origin, parse_address
from builder.net.trouble import explain
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError, UnreachableError
from builder.util.files import cache_dir, file_sha256, replacing
from builder.util.process import run

if TYPE_CHECKING:
    import requests

TIMEOUT = 60.0
_WHEEL_LIMIT = 8 << 30
# Bytes that are read in vain rather than asking once more. vLLM's 49 sources for a lint: 11 ranges with 376 kB, not 49 with 239.
_NEAR = 64 << 10
# A wheel's list of members and its RECORD are its last bytes: 491 kB of vLLM 0.20.0, with one request.
_TAIL = 512 << 10
# Ranges on their way at once, and the bytes that may lie in memory until they are read.
_AT_ONCE = 4
_MOST_AHEAD = 64 << 20
_Range = tuple[int, int]
"""The first and the last byte."""

_READING = threading.RLock()
_OPENED: dict[int, dict[WheelLink, tuple[zipfile.ZipFile, ExitStack]]] = {}
"""The open wheels of each context, by its `id`."""
_TO_CHECK = "it is checked against its digest"


@dataclass(frozen=True)
class WheelLink:
    """A wheel that was found: where it is, its file name, and its SHA-256."""

    url: str
    filename: str
    sha256: str


def index_endpoint() -> str | None:
    """The index that pip is told to use, or None for the library's default."""
    configured = os.environ.get("PIP_INDEX_URL") or os.environ.get("UV_INDEX_URL") or os.environ.get("UV_DEFAULT_INDEX")
    if configured:
        return configured
    # Elsewhere pip has other files.
    return configured_index() if sys.platform == "linux" else _pip_index(os.environ.get("HOME", ""))


@cache
def _pip_index(_home: str) -> str | None:
    """What pip itself says, asked once for a home folder."""
    done = run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], timeout=60)
    return done.stdout.decode().strip() or None if done.returncode == 0 else None


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


class RangesRefusedError(UnreachableError):
    """A server gives a wheel only as a whole: `size` bytes of it."""

    size = 0


@contextmanager
def open_wheel(link: WheelLink, *, context: Context, by_range: bool = False) -> Iterator[zipfile.ZipFile]:
    """The wheel as a zip whose members are read by range; a server without ranges costs one download into the cache.

    It is kept open for everybody who has the same context, one reader at a time: its list of members is larger than most
    of what is read then. After an error it is opened anew. With `by_range`, raises `RangesRefusedError` instead of a download.
    """
    with _READING, errors_named(link):
        opened = _OPENED.get(id(context))
        if opened is None:
            opened = _OPENED[id(context)] = {}
            weakref.finalize(context, _close, id(context))
        try:
            if link not in opened:
                with ExitStack() as stack:
                    archive = stack.enter_context(_open(link, context=context, by_range=by_range))
                    opened[link] = archive, stack.pop_all()
            yield opened[link][0]
        except BaseException:
            if link in opened:
                opened.pop(link)[1].close()
            raise


def _close(owner: int) -> None:
    for _, stack in _OPENED.pop(owner, {}).values():
        stack.close()


@contextmanager
def _open(link: WheelLink, *, context: Context, by_range: bool) -> Iterator[zipfile.ZipFile]:
    if link.url.startswith("file:"):
        with zipfile.ZipFile(local_path(link)) as archive:
            yield archive
        return
    with index_session() as session:
        try:
            remote = _remote(link, session)
        except RangesRefusedError:
            if by_range and not (cache_dir("wheels") / link.filename).is_file():
                raise
            why = f"{urlsplit(link.url).hostname} gives no parts of it"
            remote = zipfile.ZipFile(wheel_file(link, context=context, why=why))
        with remote as archive:
            yield archive


def _remote(link: WheelLink, session: requests.Session) -> zipfile.ZipFile:
    from remotezip import RemoteFetcher, RemoteZip

    class Fetcher(RemoteFetcher):  # type: ignore[misc]
        ahead: _Ahead | None = None

        def _request(self, options: dict[str, Any]) -> tuple[Any, str]:
            response = session.get(link.url, stream=True, **options)
            response.raise_for_status()
            if "Content-Range" in response.headers:
                return response.raw, response.headers["Content-Range"]
            # Closed at once: it is the whole wheel that comes now.
            response.close()
            refused = RangesRefusedError(f"{link.filename} is not given in parts")
            length = response.headers.get("Content-Length", "")
            refused.size = int(length) if length.isdigit() else 0
            raise refused

        def fetch(self, data_range: tuple[int, int | None], stream: bool = False) -> Any:
            coming = self.ahead.take(data_range) if self.ahead is not None else None
            return super().fetch(data_range, stream) if coming is None else coming.result()

    class Archive(RemoteZip):  # type: ignore[misc]
        def ask(self, sizes: dict[int, int], ranges: Sequence[_Range]) -> None:
            """Read from the first byte of each range as many bytes as `sizes` has for it; ask for them already."""
            self.fp.set_position_to_size(sizes)
            fetcher.ahead = _Ahead(lambda each: RemoteFetcher.fetch(fetcher, each), ranges)

        def close(self) -> None:
            if fetcher.ahead is not None:
                fetcher.ahead.stop()
            super().close()

    fetcher = Fetcher(link.url, timeout=TIMEOUT)
    archive: zipfile.ZipFile = Archive(link.url, initial_buffer_size=_TAIL, fetcher=lambda *_, **__: fetcher)
    return archive


class _Ahead:
    """Ranges that are asked for before they are read, several at once: a distant server takes as long for each.

    Its threads end with the process: an interruption does not wait for a server that is silent.
    """

    def __init__(self, fetch: Callable[[_Range], Any], ranges: Sequence[_Range]) -> None:
        self._fetch = fetch
        if len(ranges) < 2 or sum(last - first for first, last in ranges) > _MOST_AHEAD:
            ranges = ()
        self._coming: dict[_Range, Future[Any]] = {each: Future() for each in ranges}
        self._left = deque(self._coming.items())
        for _ in range(min(_AT_ONCE, len(ranges))):
            threading.Thread(target=self._work, daemon=True).start()

    def take(self, wanted: tuple[int, int | None]) -> Future[Any] | None:
        """What was asked for, once."""
        return self._coming.pop(wanted, None)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Ask for nothing more."""
        self._left.clear()

    def _work(self) -> None:
        with suppress(IndexError):
            while True:
                wanted, future = self._left.popleft()
                try:
                    future.set_result(self._fetch(wanted))
                except BaseException as error:  # noqa: BLE001  raised where the range is read
                    future.set_exception(error)


@contextmanager
def errors_named(link: WheelLink) -> Iterator[None]:
    """What reading a wheel raises, as errors that name it."""
    try:
        yield
    except _lost(link) as error:
        trouble = explain(error, link.url)
        raise UnreachableError(
            f"cannot read {link.filename}: {trouble.message}",
            details=[("from", urlsplit(link.url).hostname or "")],
            hint=trouble.hint or "check the network and try again; what was read already is kept",
        ) from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise InputError(
            f"{link.filename} is not a whole zip file: {error}", hint="download or build it again"
        ) from error


def _lost(link: WheelLink) -> tuple[type[Exception], ...]:
    """What reading a wheel raises when its server does not give it."""
    if link.url.startswith("file:"):
        return ()
    import requests
    from remotezip import RemoteIOError

    return requests.RequestException, RemoteIOError


def in_order(archive: zipfile.ZipFile, paths: Collection[str]) -> list[str]:
    """The members in the order in which the archive has them; those that are near to each other come with one range.

    remotezip asks for as many bytes as its table has for the place where it begins to read, and passes over what is not
    wanted on the way. The ranges are on their way when this returns.
    """
    known = archive.NameToInfo
    ordered = sorted(paths, key=lambda path: known[path].header_offset if path in known else -1)
    if not hasattr(archive, "ask"):
        return ordered
    offsets = sorted({each.header_offset for each in archive.infolist()})
    ends = dict(pairwise([*offsets, archive.start_dir]))
    sizes = {begin: end - begin for begin, end in ends.items()}
    firsts: list[int] = []
    last = 0
    for begin in (known[path].header_offset for path in ordered if path in known):
        if not firsts or begin - last > _NEAR:
            firsts.append(begin)
        last = ends[begin]
        sizes[firsts[-1]] = last - firsts[-1]
    archive.ask(sizes, [(first, first + sizes[first] - 1) for first in firsts])
    return ordered


def local_path(link: WheelLink) -> Path:
    return Path(unquote(urlsplit(link.url).path))


def download(link: WheelLink, stream: IO[bytes], context: Context, *, why: str = _TO_CHECK) -> None:
    """Read a whole wheel into `stream`, with its progress shown, and why it is read. Raises `MismatchError` for other content."""
    import requests

    digest = hashlib.sha256()
    try:
        with index_session() as session, session.get(link.url, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            size = f" ({total / 1e6:,.0f} MB)" if total is not None else ""
            context.console.say(f"reading {link.filename}{size} once: {why}")
            with context.console.progress(f"checking {link.filename}", total=total) as bar:
                for chunk in response.iter_content(1 << 20):
                    digest.update(chunk)
                    stream.write(chunk)
                    bar.advance(len(chunk))
                    if stream.tell() > _WHEEL_LIMIT:
                        raise InputError(f"{link.filename} is larger than {_WHEEL_LIMIT >> 30} GiB")
    except requests.RequestException as error:
        trouble = explain(error, link.url)
        raise UnreachableError(
            f"cannot read {link.filename}: {trouble.message}",
            details=[("from", urlsplit(link.url).hostname or "")],
            hint=trouble.hint or "check the network and try again",
        ) from error
    if digest.hexdigest() != link.sha256:
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise UnreachableError(
                f"cannot read {link.filename}: a web page comes in its place",
                details=[("from", urlsplit(link.url).hostname or "")],
                hint="a login page of the network or a proxy may respond in the place of the package index: check the network, then try again",
            )
        raise other_wheel(link, digest.hexdigest())
    stream.flush()


def other_wheel(link: WheelLink, found: str) -> MismatchError:
    return MismatchError(
        f"{link.filename} does not have the digest that the index promised",
        details=[("wanted", link.sha256), ("found", found)],
        hint="try again; if it stays, the index or a proxy changes files",
    )


def wheel_file(link: WheelLink, *, context: Context, why: str = _TO_CHECK) -> Path:
    """The whole wheel as a file, checked against its digest: local, from the cache, or downloaded into it."""
    path = local_path(link) if link.url.startswith("file:") else cache_dir("wheels") / link.filename
    if path.is_file() and file_sha256(path) == link.sha256:
        return path
    if link.url.startswith("file:"):
        raise other_wheel(link, "another digest, or no file")
    if context.offline:
        raise InputError(f"--offline: {link.filename} is not in the cache", hint="run once with the network")
    with replacing(path) as stream:
        download(link, stream, context, why=why)
    return path
