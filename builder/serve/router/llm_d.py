"""The configuration of llm-d's endpoint picker, and the label by which it finds each backend's range of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.serve.deploy.kubernetes import manifests
from builder.serve.router.backends import LONG, SHORT, Target
from builder.util.errors import InputError

LABEL = "llm-d.ai/context-length-range"
_SCORER, _PICKER, _TOKENS = "context-length-aware", "max-score-picker", "token-producer"
README = """\
# Routing by llm-d

`epp.yaml` is the endpoint picker's configuration. Each backend's pods need the label that this folder gives them:

{labels}
Know two things before you rely on it:

- **It fails open.** While its tokenizer does not respond, and where no pod's range holds a prompt, the picker still chooses a
  pod. A prompt above the envelope can then reach the short backend, which refuses it with 400.
- **It ignores the completion.** Only prompt tokens are compared with a range. A range therefore ends at max-model-len minus
  {reserve} tokens, which are reserved for the completion. A request that asks for more may be sent to a backend
  that cannot hold it.

The engine `litellm` refuses such requests in both cases.
"""


def ranges(targets: Sequence[Target]) -> dict[str, str]:
    """The range of prompts of each backend, `MIN-MAX` in tokens with both ends in it, the reserve left out.

    Raises `InputError` when a limit is not known, or the long backend takes no more than the short one.
    """
    reserve = reserved(targets)
    tops = {}
    for target in targets:
        if target.max_model_len is None:
            raise InputError(f"{target.name} has no max-model-len: llm-d has to be told its range", hint="--long-max-model-len TOKENS, or name the long backend's profile")  # fmt: skip
        room = target.max_model_len - reserve
        tops[target.name] = room if target.max_prompt is None else min(room, target.max_prompt)
    short = max(tops[each.name] for each in targets if each.role == SHORT)
    least = min(tops[each.name] for each in targets if each.role == LONG)
    if least <= short:
        raise InputError(
            "the long backend takes no longer prompts than the short one",
            details=[("short", f"{short} tokens"), ("long", f"{least} tokens"), ("reserved", f"{reserve} tokens")],
        )
    return {each.name: f"{0 if each.role == SHORT else short + 1}-{tops[each.name]}" for each in targets}


def reserved(targets: Sequence[Target]) -> int:
    """The tokens that are kept for the completion: the largest of the short profiles'."""
    return max(each.completion for each in targets if each.role == SHORT and each.completion is not None)


def config(targets: Sequence[Target]) -> dict[str, Any]:
    """`EndpointPickerConfig`: prompts are counted by a backend's own renderer, and pods out of range are left out."""
    counted = next(each for each in targets if each.role == SHORT)
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [
            {
                "type": _TOKENS,
                "parameters": {"backend": "vllm", "modelName": counted.served, "vllm": {"url": counted.url}},
            },
            {"type": _SCORER, "parameters": {"label": LABEL, "enableFiltering": True}},
            {"type": _PICKER},
            {"type": "single-profile-handler"},
        ],
        "schedulingProfiles": [{"name": "default", "plugins": [{"pluginRef": _SCORER}, {"pluginRef": _PICKER}]}],
    }


def files(targets: Sequence[Target], *, model_claim: str, cache_gib: int) -> dict[str, Any]:
    """All files by name; Deployments of the backends that run from an image of ours, with their labels."""
    found = ranges(targets)
    labels = "".join(f"- {each.name} ({each.url}): `{LABEL}: {found[each.name]}`\n" for each in targets)
    documents: dict[str, Any] = {
        "epp.yaml": config(targets),
        "README.md": README.format(labels=labels, reserve=reserved(targets)),
    }
    for target in targets:
        if target.service is None:
            continue
        for name, document in manifests([target.service], model_claim=model_claim, cache_gib=cache_gib).items():
            if document["kind"] == "Deployment":
                document["spec"]["template"]["metadata"]["labels"][LABEL] = found[target.name]
            documents[name] = document
    return documents
