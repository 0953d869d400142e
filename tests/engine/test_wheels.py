"""The real engine serves with another transformers than its base has, brought by a recipe's `wheels:`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from builder.documents.lock import read_lock
from builder.util.errors import BuilderError
from tests.engine.conftest import packages
from tests.support.cli import builder
from tests.support.engine.base import ROOT, base_image
from tests.support.engine.observe import observe
from tests.support.engine.packages import OLD
from tests.support.engine.project import make_project, own_layer
from tests.support.engine.rootfs import command, unpacked
from tests.support.engine.server import environment, interpreter
from tests.support.services import leave_out

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

# The engine's base has a newer one: what is replaced, and what stays, is the same in both directions.
OTHER = "5.23.0"
LOOK = "import importlib.metadata as m, transformers as t; print(t.__version__, m.version('transformers'), t.__file__)"


def test_it_serves_with_another_transformers(room: Path, tiny: Path) -> None:
    try:
        base = base_image(OLD)
    except BuilderError as error:
        leave_out(f"{error.message}: {error.hint}")
    project = make_project(room / "wheels", base=base, model=tiny, name="wheels", overlays=[])
    recipe = project / "images/wheels.yaml"
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "wheels": [f"transformers=={OTHER}"]}))
    done = builder("build", "wheels", "--engine", "oci", "--output", "oci:dist/wheels", "--json", cwd=project)
    if done.code == 5:
        leave_out("needs transformers from the package index")
    assert done.code == 0, done.err
    locked = next(iter(read_lock(project / "images/wheels.lock.yaml").base.platforms.values()))
    (installed,) = locked.installed
    assert installed.version == OTHER and (installed.replaces or "").startswith("transformers==")
    image = unpacked(packages(OLD), own_layer(project / "dist/wheels"), room / "wheels-root")
    root = image.parents[2] / ROOT
    env = environment([root], room / "wheels-work") | {"BUILDER_MODEL": str(tiny)}
    found = subprocess.run([interpreter(), "-c", LOOK], env=env, capture_output=True, text=True, check=False)
    assert found.stdout.split() == [OTHER, OTHER, str(root / "transformers/__init__.py")], found.stderr[-2000:]
    verified = subprocess.run(command(image, "verify", "--json"), env=env, capture_output=True, text=True, check=False)
    assert json.loads(verified.stdout)["ok"] is True, verified.stdout[-2000:]
    observed = observe(command(image, "smoke-cpu"), env, room / "wheels.log", cwd=room, smoke_only=True)
    assert observed.smoke is not None
    assert observed.smoke.code == 0, observed.smoke.err
    shown = builder("check", "wheels", "--json", cwd=project).document["platforms"][0]
    assert [each["name"] for each in shown["wheels"]] == ["transformers"]
