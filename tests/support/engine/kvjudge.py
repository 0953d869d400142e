"""The judge of cache layouts: vLLM's own `kv_cache_utils`, in a process that has its packages.

    python kvjudge.py < CASES

CASES is a JSON list of {layers: [[kind, count, heads, size, block, window]], length, batched, pool, drafted}; the answer has for
each what vLLM makes of it: groups, layers of a group, blocks, the tokens that 0.20.0 prints, and the concurrency.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any


def judge(case: dict[str, Any]) -> dict[str, Any]:
    import torch
    from vllm.v1.core import kv_cache_utils as utils
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        MambaSpec,
        MLAAttentionSpec,
        SlidingWindowSpec,
    )

    specs: dict[str, Any] = {}
    for kind, count, heads, size, block, extra in case["layers"]:
        plain = {"block_size": block, "num_kv_heads": heads, "head_size": size, "dtype": torch.bfloat16}
        for index in range(count):
            if kind == "window":
                specs[f"window.{index}"] = SlidingWindowSpec(**plain, sliding_window=extra)
            elif kind == "latent":
                specs[f"latent.{index}"] = MLAAttentionSpec(**plain)
            elif kind == "state":
                specs[f"state.{index}"] = MambaSpec(
                    block_size=case["length"], shapes=((heads, size), (1, 1)), dtypes=(torch.bfloat16, torch.float32),
                    page_size_padded=extra, mamba_type="gdn_attention", num_speculative_blocks=case["drafted"],
                )  # fmt: skip
            else:
                specs[f"full.{index}"] = FullAttentionSpec(**plain)
    config = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=case["length"]),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=case["batched"], disable_hybrid_kv_cache_manager=False),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, prefill_context_parallel_size=1),
        cache_config=SimpleNamespace(
            num_gpu_blocks_override=None, mamba_cache_mode="none", enable_prefix_caching=False, block_size=16
        ),
        kv_transfer_config=None,
        speculative_config=None,
    )
    groups = utils.get_kv_cache_groups(config, specs)
    made = utils.get_kv_cache_config_from_groups(config, groups, case["pool"])
    return {
        "groups": len(groups),
        "layers": max(len(group.layer_names) for group in groups),
        "blocks": made.num_blocks,
        "tokens": made.num_blocks // len(groups) * min(group.kv_cache_spec.block_size for group in groups),
        "concurrency": utils.get_max_concurrency_for_kv_cache_config(config, made),
    }


if __name__ == "__main__":
    answers = [judge(case) for case in json.load(sys.stdin)]
    sys.stdout.write("\n" + json.dumps(answers) + "\n")
