"""The tiny model: the same bytes whenever it is trained, and small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engine.model import train

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_training_again_writes_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    train(tmp_path / "again")
    names = sorted(path.name for path in tiny.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert {name: (tmp_path / "again" / name).read_bytes() for name in names} == {name: (tiny / name).read_bytes() for name in names}  # fmt: skip
    assert sum(path.stat().st_size for path in tiny.iterdir()) < 10_000_000
