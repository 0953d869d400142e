"""Whether a checkpoint can be loaded by a recipe's stack, and how far it is from its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.checkpoint.check import check_checkpoint
from builder.checkpoint.quantize.run import quantize
from builder.documents.recipe import load_recipe
from builder.serve import entrypoint
from builder.util.context import Context
from tests.support.checkpoints import EMBED, HEAD, make_checkpoint, make_qwen, normal, qwen_shards, write_shard
from tests.support.cli import Ran, builder
from tests.support.wheels import some_files

# The entrypoint has no types: it is written for any Python 3.
SERVE: Any = entrypoint
RECIPE = """
name: small
base: wheel:vllm==0.20.0
overlays:
  - pull: vllm-project/vllm#39931
  - pull: vllm-project/vllm#41365
    requires:
      opt_ins: [lm_head, embed_tokens, embeddings]
      tensors:
        lm_head.weight_scale_inv: {dtype: BF16, shape: [4, 3]}
        model.language_model.embed_tokens.weight_scale_inv: {dtype: BF16, shape: [4, 3]}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    quantize(make_qwen(tmp_path / "source"), tmp_path / "dest", context=Context(), copy=True)
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "stock.yaml").write_text("name: stock\nbase: wheel:vllm==0.20.0\n")
    return tmp_path


def check(place: Path, *arguments: str) -> Ran:
    return builder("checkpoint", "check", *arguments, "--json", cwd=place)


def test_a_quantized_checkpoint_is_what_the_overlay_needs(place: Path) -> None:
    done = check(place, "dest", "--recipe", "small.yaml")
    assert done.code == 0, done.err
    assert done.document["fp8_tables"] == [HEAD, EMBED]
    assert len(done.document["needs"]) == 5
    assert all(need["met"] and need["overlay"] == "vllm-project/vllm#41365" for need in done.document["needs"])
    shown = builder("checkpoint", "check", "dest", "--recipe", "small.yaml", cwd=place)
    assert "quantization_config.embeddings: true" in shown.out


def test_the_source_is_sound_but_not_for_this_stack_and_fp8_is_not_for_stock(place: Path) -> None:
    assert check(place, "source").code == 0
    done = check(place, "source", "--recipe", "small.yaml")
    assert done.code == 4
    assert {each["where"] for each in done.document["error"]["problems"]} == {
        "config.json", f"{HEAD}_scale_inv", f"{EMBED}_scale_inv"
    }  # fmt: skip
    stock = check(place, "dest", "--recipe", "stock.yaml")
    assert stock.code == 4
    assert "stock vLLM does not" in json.dumps(stock.document)


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        document = json.loads((folder / "config.json").read_text())
        change(document["quantization_config"])
        (folder / "config.json").write_text(json.dumps(document))

    return edit


def reshard(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """The shard with both tables written anew, as quantized but for `change`, and the index with it."""

    def edit(folder: Path) -> None:
        tensors = dict(qwen_shards()["outside.safetensors"])
        for name in (HEAD, EMBED):
            tensors |= {name: tensors[name].astype("uint8"), f"{name}_scale_inv": normal(4, 3)}
        change(tensors)
        write_shard(folder / "outside.safetensors", tensors)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        weights = {name: shard for name, shard in index["weight_map"].items() if shard != "outside.safetensors"}
        index["weight_map"] = weights | dict.fromkeys(tensors, "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (config(lambda q: q.update(lm_head=False)), "lm_head is not true"),
        (config(lambda q: q.pop("embeddings")), "embeddings is not true"),
        (config(lambda q: q["modules_to_not_convert"].append("lm_head")), "lists lm_head: its scale would be ignored"),
        (config(lambda q: q.update(weight_block_size=[64, 64])), "not BF16 [8, 5]"),
        (config(lambda q: q.update(quant_method="awq")), "not block FP8"),
        (reshard(lambda t: t.pop(f"{HEAD}_scale_inv")), "its values would be read unscaled"),
        (reshard(lambda t: t.update({f"{HEAD}_scale_inv": normal(4, 4)})), "is BF16 [4, 4], not BF16 [4, 3]"),
        (reshard(lambda t: t.update({f"{EMBED}_scale_inv": normal(4, 3).astype("float32")})), "is F32 [4, 3]"),
        (reshard(lambda t: t.update({HEAD: normal(500, 320)})), "is a scale, but lm_head.weight is not F8_E4M3"),
        (lambda folder: (folder / "layers-0.safetensors").unlink(), "cannot read layers-0.safetensors"),
    ],
)
def test_what_is_wrong_is_named(place: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(place / "dest")
    done = check(place, "dest")
    assert done.code == 4
    assert message in json.dumps(done.document["error"]["problems"])


def test_a_total_size_that_lies_is_a_note(place: Path) -> None:
    path = place / "source/model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] += 1
    path.write_text(json.dumps(index))
    done = check(place, "source")
    assert done.code == 0
    assert "total_size" in done.document["notes"][0]["what"]


def test_the_error_against_the_source(place: Path) -> None:
    done = check(place, "dest", "--error-against", "source")
    assert done.code == 0, done.err
    errors = {each["name"]: each for each in done.document["errors"]}
    assert set(errors) == {HEAD, EMBED}
    for each in errors.values():
        assert 0.02 < each["relative_rms_error"] < 0.0266 < each["worst_block"] < 0.03
        assert sum(part["blocks"] for part in each["histogram"]) == 12
    shown = builder("checkpoint", "check", "dest", "--error-against", "source", cwd=place)
    assert "relative RMS error 2.6" in shown.out
    assert "####" in shown.out
    assert check(place, "source", "--error-against", "source").code == 2


def both_judges(place: Path) -> tuple[set[str], set[str]]:
    """What `builder checkpoint check` and the entrypoint of the image find wrong with a checkpoint's kept lists."""
    overlays = load_recipe(place / "small.yaml").overlays
    verdict = check_checkpoint(place / "dest", overlays=overlays)
    (requires,) = [each.requires.model_dump(mode="json") for each in overlays if each.requires]
    config = json.loads((place / "dest/config.json").read_text())
    found = (each.what for each in verdict.problems)
    return (
        {
            what
            for what in found
            if "its scale would be ignored" in what or ("is not true" in what and "needs" not in what)
        },
        {what for _, what in SERVE.opt_in_problems(config, requires)},
    )


@pytest.mark.parametrize("inside", [False, True])
def test_the_check_and_the_entrypoint_read_the_same_lists_of_kept_modules(place: Path, *, inside: bool) -> None:
    """Both lists, every spelling of a name, and a `quantization_config` of the config or of its `text_config`."""
    path = place / "dest/config.json"
    whole = json.loads(path.read_text())
    cases: list[tuple[dict[str, Any], set[str]]] = [({}, set())]
    for key in ("modules_to_not_convert", "ignored_layers"):
        for name in ("lm_head", "language_model.lm_head", "model.language_model.embed_tokens", "embed_tokens"):
            cases.append(({key: ["visual", name]}, {f"{key} lists {name}: its scale would be ignored"}))
        cases += [({key: harmless}, set()) for harmless in ([], None, ["lm_head2", "head", "visual.embed_tokens"])]
    both = {"modules_to_not_convert": ["lm_head"], "ignored_layers": ["model.lm_head"]}
    cases.append((both, {f"{key} lists {names[0]}: its scale would be ignored" for key, names in both.items()}))
    for change, wanted in cases:
        document = dict(whole)
        quantization = document.pop("quantization_config") | change
        if inside:
            document |= {"quantization_config": None, "text_config": {"quantization_config": quantization}}
        else:
            document |= {"quantization_config": quantization, "text_config": {"quantization_config": {"lm_head": 1}}}
        path.write_text(json.dumps(document))
        assert both_judges(place) == (wanted, wanted), change
    # An empty one is one: vLLM does not look further.
    path.write_text(json.dumps({**whole, "quantization_config": {}, "text_config": whole}))
    assert all(both_judges(place))


def test_vllm_reads_both_lists_of_kept_modules() -> None:
    """What the two judges rely on, in the wheel that the recipes are built on."""
    path = "vllm/model_executor/layers/quantization/fp8.py"
    source = some_files("0.20.0", [path])[path].decode()
    body = source[source.index("def from_config(cls") :]
    body = body[: body.index("return cls(")]
    assert '["ignored_layers"]' in body
    assert '["modules_to_not_convert"]' in body


@pytest.mark.parametrize(
    ("stale", "code", "says"),
    [
        ("a-1.safetensors", 0, "so the one that is listed counts"),
        ("z-10.safetensors", 4, "the one that the index supersedes would be served"),
    ],
)
def test_a_tensor_in_two_shards_is_judged_as_vllm_reads_it(tmp_path: Path, stale: str, code: int, says: str) -> None:
    """vLLM reads all tensors of all shards in the index in the natural order of their names: z-9 before z-10."""
    shards = qwen_shards()
    shards = {"z-9.safetensors": {name: data for each in shards.values() for name, data in each.items()}}
    folder = make_checkpoint(tmp_path / "c", shards)
    name = next(name for name in shards["z-9.safetensors"] if "layers.0" in name)
    write_shard(folder / stale, {name: shards["z-9.safetensors"][name], "extra.weight": normal(2, 2)})
    index = folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["extra.weight"] = stale
    document.pop("metadata")
    index.write_text(json.dumps(document))
    done = check(tmp_path, "c")
    assert done.code == code, done.err
    assert says in done.out
    refused = builder("checkpoint", "quantize", "c", "d", cwd=tmp_path)
    assert refused.code == 2
    assert "which the index lists, and in" in refused.err
