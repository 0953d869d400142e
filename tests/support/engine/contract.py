"""What a server that speaks vLLM's API says at its edges: asked of the real engine and of the stand-in alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from builder.serve.smoke import prompts


@dataclass(frozen=True)
class Reply:
    """A response: its status, and the names of all fields of its JSON, `a.b` for a field of a field."""

    status: int
    fields: frozenset[str]
    body: Any


def fields(document: Any, above: str = "") -> frozenset[str]:
    """The fields of a JSON document; the items of a list share their names."""
    found: set[str] = set()
    if isinstance(document, dict):
        for name, value in document.items():
            found |= {above + name} | fields(value, f"{above}{name}.")
    elif isinstance(document, list):
        for value in document:
            found |= fields(value, above)
    return frozenset(found)


def replies(url: str, model: str) -> dict[str, Reply]:
    """One response for each edge: routes, fields, errors."""
    user = [{"role": "user", "content": prompts.SHORT_PROMPT}]
    plain = {"model": model, "messages": user, "max_tokens": 32, "temperature": 0, "seed": 0}
    quiet = {"chat_template_kwargs": {"enable_thinking": False}}
    thought = {**plain, "messages": [{"role": "user", "content": prompts.REASONING_PROMPT}], "max_tokens": 256}
    tool = {**plain, **quiet, "messages": [{"role": "user", "content": prompts.TOOL_PROMPT}], "tools": [prompts.TOOL], "tool_choice": "auto", "max_tokens": 256}  # fmt: skip
    chat = f"{url}/v1/chat/completions"
    asked: dict[str, Callable[[], requests.Response]] = {
        "health": lambda: requests.get(f"{url}/health", timeout=30),
        "version": lambda: requests.get(f"{url}/version", timeout=30),
        "models": lambda: requests.get(f"{url}/v1/models", timeout=30),
        "nothing": lambda: requests.get(f"{url}/nothing", timeout=30),
        "chat": lambda: requests.post(chat, json={**plain, **quiet}, timeout=120),
        "reasoning": lambda: requests.post(chat, json=thought, timeout=120),
        "tool": lambda: requests.post(chat, json=tool, timeout=120),
        "no JSON": lambda: requests.post(chat, data=b"{", headers={"Content-Type": "application/json"}, timeout=30),
        "no messages": lambda: requests.post(chat, json={"model": model}, timeout=30),
        "another model": lambda: requests.post(chat, json={**plain, "model": "another"}, timeout=30),
    }
    found: dict[str, Reply] = {}
    for name, ask in asked.items():
        response = ask()
        try:
            body = response.json()
        except json.JSONDecodeError:
            body = None
        found[name] = Reply(response.status_code, fields(body), body)
    return found
