"""What of a base's manifest stays in an image's manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.bases import PYTHON, Made, build, layer, package, recipe

FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def test_a_layer_that_is_downloaded_from_elsewhere_keeps_its_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = ["https://example.org/layer"]
    made = Made(recipe(tmp_path) / "base")
    made.write(
        made.image(
            [layer(*PYTHON), layer(*package())],
            manifest=lambda found: found["layers"][0].update(mediaType=FOREIGN, urls=urls),
        )
    )
    outcome = build(tmp_path, capsys)
    assert outcome.code == 0, outcome.message
    index = json.loads((tmp_path / "dist/r/index.json").read_bytes())
    blob = (
        tmp_path
        / "dist/r/blobs/sha256"
        / next(each for each in index["manifests"] if "artifactType" not in each)["digest"].removeprefix("sha256:")
    )
    first = json.loads(blob.read_bytes())["layers"][0]
    assert (first["mediaType"], first["urls"]) == (FOREIGN, urls)
