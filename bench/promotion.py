"""A promotion beside the same requests without anything around them, in one run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from bench.measure import Row, pairs, timed


def promotion() -> list[Row]:
    """Judge, summarize and move a tag, of an image whose verdict is signed; the registry is on loopback."""
    from builder.oci.registry.client import Registry
    from tests.support.promotion import stage

    calls: list[tuple[str, str, bytes | None, Any, int]] = []
    original = Registry.send

    def recording(self: Registry, method: str, url: str, scopes: Any, **options: Any) -> Any:
        response = original(self, method, url, scopes, **options)
        calls.append((method, url, options.get("data"), options.get("headers"), response.status))
        return response

    stream = Registry._stream

    def streaming(self: Registry, repository: str, path: str, headers: Any, size: int, **options: Any) -> Any:
        calls.append(("GET", f"http://{self.name}/v2/{repository}/{path}", None, dict(headers), 200))
        return stream(self, repository, path, headers, size, **options)

    with tempfile.TemporaryDirectory() as name, stage(Path(name)) as made:
        first = made.repository()
        made.attach(first)
        recorded = made.copy(first)
        Registry.send, Registry._stream = recording, streaming  # type: ignore[method-assign]
        made.promote(recorded)
        Registry.send, Registry._stream = original, stream  # type: ignore[method-assign]
        times = 15
        fresh = iter([made.copy(first) for _ in range(2 * times + 2)])

        def replay() -> None:
            target, location = next(fresh), ""
            session = requests.Session()
            for method, url, data, headers, status in calls:
                where = url.replace(recorded, target)
                if method == "PUT" and "/uploads/" in url:
                    # The upload's own address, with the digest that was sent.
                    digest = urlsplit(url).query.rpartition("digest=")[2]
                    where = f"{location}{'&' if '?' in location else '?'}digest={digest}"
                answer = session.request(method, where, data=data, headers=headers, timeout=30)
                if answer.status_code != status:
                    raise SystemExit(f"{method} {where}: {answer.status_code} instead of {status}")
                location = urljoin(answer.url, answer.headers.get("Location", location))

        return [
            pairs(
                "promote, signed",
                {
                    "builder promote, in one process": lambda: timed(lambda: made.promote(next(fresh))),
                    f"its {len(calls)} requests alone": lambda: timed(replay),
                },
                times=times,
            )
        ]
