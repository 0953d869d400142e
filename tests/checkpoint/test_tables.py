"""Which modules a config keeps as they are, however it spells their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.checkpoint.quantize.run import quantize
from builder.util.context import Context
from tests.support.checkpoints import make_checkpoint, qwen_config, qwen_shards
from tests.support.cli import builder


@pytest.mark.parametrize("holder", ["config", "text_config"])
def test_the_kept_modules_lose_the_tables_under_every_spelling_and_nothing_else(tmp_path: Path, holder: str) -> None:
    others = ["model.visual.merger", "mtp.lm_head", "visual.embed_tokens", 5, None]
    spelled = ["lm_head", "model.lm_head", "language_model.lm_head", "embed_tokens", "model.embed_tokens",
               "language_model.model.embed_tokens", "model.language_model.embed_tokens"]  # fmt: skip

    def place(config: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = config if holder == "config" else config["text_config"]
        return found

    config = qwen_config()
    quantization = config.pop("quantization_config")
    quantization |= {"modules_to_not_convert": [*spelled, *others], "ignored_layers": None}
    place(config)["quantization_config"] = quantization
    source = make_checkpoint(tmp_path / "source", qwen_shards(), config)
    quantize(source, tmp_path / "dest", context=Context())
    config = json.loads((tmp_path / "dest/config.json").read_text())
    made = place(config)["quantization_config"]
    assert made["modules_to_not_convert"] == others
    assert made["lm_head"] is made["embed_tokens"] is made["embeddings"] is True
    check = ["checkpoint", "check", str(tmp_path / "dest"), "--json"]
    assert builder(*check, cwd=tmp_path).code == 0
    for name in spelled:
        made["ignored_layers"] = [name]
        (tmp_path / "dest/config.json").write_text(json.dumps(config))
        problems = builder(*check, cwd=tmp_path).document["error"]["problems"]
        assert [each["what"] for each in problems] == [f"ignored_layers lists {name}: its scale would be ignored"]
