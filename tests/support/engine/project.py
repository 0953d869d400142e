"""A project whose base is the real engine: the demo's overlays, the tiny model, the profile smoke-cpu."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from builder.oci.layout import Layout

_HERE = Path(__file__).parents[3]
DEMO = ("overlays/demo/collect-env.diff", "overlays/demo/overlays-endpoint.diff")


def make_project(
    folder: Path, *, base: Path, model: Path, name: str = "demo-serve", overlays: Sequence[str | dict[str, Any]] = DEMO,
    description: str = "The real engine on a CPU, with the demo's overlays",
) -> Path:  # fmt: skip
    """Write the recipe `name` with what it needs into `folder`; what lies in it already is kept."""
    recipe = {
        "name": name,
        "description": description,
        "base": f"oci:{base}",
        "overlays": [each if isinstance(each, dict) else {"file": each} for each in overlays],
        "checkpoint": {"path": "model"},
        "profiles": ["smoke-cpu"],
        "default_profile": "smoke-cpu",
    }
    for each in overlays:
        source = each["file"] if isinstance(each, dict) else each
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_HERE / source, target)
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_HERE / "profiles/smoke-cpu.yaml", folder / "profiles/smoke-cpu.yaml")
    if not (folder / "model").is_dir():
        shutil.copytree(model, folder / "model")
    (folder / "images").mkdir(exist_ok=True)
    path, text = folder / "images" / f"{name}.yaml", yaml.safe_dump(recipe, sort_keys=False)
    if not path.is_file() or path.read_text() != text:
        # A lock of another base is not one of this recipe.
        path.with_suffix(".lock.yaml").unlink(missing_ok=True)
        path.write_text(text)
    return folder


def own_layer(folder: Path) -> Path:
    """The last layer of the one image in an OCI layout, as a tar."""
    layout = Layout(folder)
    manifest = json.loads(layout.read(layout.resolve()))
    return layout.blob_path(manifest["layers"][-1]["digest"])
