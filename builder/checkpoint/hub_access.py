"""The Hub, opened: one client, one policy for its errors. `HF_ENDPOINT` and tokens follow huggingface_hub's rules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from builder.util.errors import InputError, UnreachableError
from builder.util.extras import install_hint

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@contextmanager
def open_hub(repo: str) -> Iterator[HfApi]:
    """A client for `repo`. Inside, every wait and every answer has its limit, and what huggingface_hub and its HTTP client
    raise becomes `UnreachableError` when the Hub does not answer, refuses or answers what its API does not have, and
    `InputError` when the name is no repository's or has no safetensors weights, or `HF_ENDPOINT` is no address."""
    endpoint = _endpoint()
    try:
        import httpx
        from huggingface_hub import HfApi
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            NotASafetensorsRepoError,
            SafetensorsParsingError,
        )

        from builder.checkpoint.hub_client import bounded_client
    except ImportError as error:
        raise InputError(
            "a checkpoint on the Hub needs the extra 'checkpoint'",
            hint=install_hint("checkpoint"),
        ) from error
    try:
        with bounded_client():
            yield HfApi(endpoint=endpoint)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is not a repository's name", hint="write it as OWNER/NAME") from error
    except NotASafetensorsRepoError as error:
        raise InputError(f"{repo} has no safetensors weights", hint="check name and revision") from error
    except HfHubHTTPError as error:
        raise UnreachableError(
            f"the Hub refuses {repo}: {str(error).splitlines()[0]}",
            hint="check name and revision; private ones need HF_TOKEN",
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise UnreachableError(
            f"the Hub does not answer: {type(error).__name__}", hint="check the network, or HF_ENDPOINT"
        ) from error
    except (SafetensorsParsingError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # What huggingface_hub makes of HTML, cut JSON, or JSON of another shape. The text may quote a header: not shown.
        raise UnreachableError(
            f"the Hub's answer about {repo} is not what its API gives: {type(error).__name__}",
            hint="is a proxy, or another service, at HF_ENDPOINT? is HF_TOKEN the whole token and nothing else?",
        ) from error


def _endpoint() -> str | None:
    """`HF_ENDPOINT`, judged here: huggingface_hub reads it when it is imported, and a broken one breaks the import."""
    given = os.environ.get("HF_ENDPOINT")
    if not given:
        return None
    try:
        parts = urlsplit(given)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise InputError(f"HF_ENDPOINT is {given!r}, no web address", hint="give one, such as https://huggingface.co")
    return given


def fetch(api: HfApi, repo: str, revision: str | None, path: str) -> bytes:
    """A small file's content."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(repo, path, revision=revision, endpoint=api.endpoint)
    answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
    hf_raise_for_status(answer)
    return answer.content
