"""What a base says of its distributions: the C library, tags that fit, and requirements with markers and extras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.tags import parse_tag

from builder.base.installed import InstalledDistribution, Libc, _libc, normal, read_environment
from builder.base.oci_layout import LayoutBase
from builder.base.requirements import judge_requirements
from builder.base.unpack import Schemes
from builder.base.wheel_choice import check_tags, supported_tags
from builder.documents.reference import BaseReference, Platform
from builder.util.context import Context
from builder.util.errors import InputError
from tests.support.dists import BASE, base

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def dist(name: str, version: str, *requires: str, tags: tuple[str, ...] = ()) -> InstalledDistribution:
    return InstalledDistribution(name, version, f"{name}-{version}.dist-info", requires, {}, tags)


def by_key(*dists: InstalledDistribution) -> Mapping[str, InstalledDistribution]:
    return {each.key: each for each in dists}


def test_every_distribution_of_a_layout_is_read(tmp_path: Path) -> None:
    base(tmp_path / "layout")
    opened = LayoutBase(BaseReference.parse("oci:layout:base"), root=tmp_path, context=Context())
    tree = opened.tree(AMD64, "vllm", listing=True)
    found = read_environment(opened, tree, AMD64)
    assert set(found.distributions) == {normal(each.name) for each in BASE}
    assert found.distributions["vllm"].requires == ("transformers>=4", "six")
    assert "six.py" in found.distributions["six"].files
    assert (found.whole, found.libc) == (True, Libc("glibc", (2, 35), "ubuntu 22.04"))
    # Without `listing` the layers' snapshots are what they always were.
    assert "six-1.17.dist-info/RECORD" not in opened.tree(AMD64, "vllm").read(["vllm/__init__.py"])


@pytest.mark.parametrize(
    ("system", "tags", "libc"),
    [
        ({"ID": "ubuntu", "VERSION_ID": "24.04"}, (), ("glibc", (2, 39))),
        ({"ID": "debian", "VERSION_ID": "12"}, (), ("glibc", (2, 36))),
        ({"ID": "rocky", "VERSION_ID": "9.4"}, (), ("glibc", (2, 34))),
        ({"ID": "alpine", "VERSION_ID": "3.20"}, (), ("musl", (1, 2))),
        ({}, ("cp38-abi3-manylinux_2_35_x86_64",), ("glibc", (2, 35))),
        ({}, ("cp312-cp312-manylinux2014_x86_64.manylinux_2_28_x86_64",), ("glibc", (2, 17))),
        ({"ID": "unheard", "VERSION_ID": "1"}, ("py3-none-any",), ("glibc", None)),
    ],
)
def test_the_c_library_by_the_system_or_by_what_is_installed(
    system: dict[str, str], tags: tuple[str, ...], libc: tuple[str, tuple[int, int] | None]
) -> None:
    found = _libc([dist("x", "1", tags=tags)], system)
    assert (found.kind, found.version) == libc


@pytest.mark.parametrize(
    ("tag", "platform", "libc", "fits"),
    [
        ("py3-none-any", AMD64, Libc("glibc", (2, 35)), True),
        ("cp312-cp312-manylinux_2_35_x86_64", AMD64, Libc("glibc", (2, 35)), True),
        ("cp312-cp312-manylinux_2_36_x86_64", AMD64, Libc("glibc", (2, 35)), False),
        ("cp312-cp312-manylinux_2_39_x86_64", AMD64, Libc("glibc", None), True),
        ("cp38-abi3-manylinux2014_x86_64", AMD64, Libc("glibc", (2, 17)), True),
        ("cp38-abi3-manylinux2014_aarch64", AMD64, Libc("glibc", (2, 35)), False),
        ("cp38-abi3-manylinux2014_aarch64", ARM64, Libc("glibc", (2, 35)), True),
        ("cp313-cp313-manylinux2014_x86_64", AMD64, Libc("glibc", (2, 35)), False),
        ("cp313-abi3-manylinux2014_x86_64", AMD64, Libc("glibc", (2, 35)), False),
        ("cp312-cp312-musllinux_1_2_x86_64", AMD64, Libc("musl", (1, 2)), True),
        ("cp312-cp312-manylinux2014_x86_64", AMD64, Libc("musl", (1, 2)), False),
        ("cp312-cp312-win_amd64", AMD64, Libc("glibc", (2, 35)), False),
        ("py2-none-any", AMD64, Libc("glibc", (2, 35)), False),
    ],
)
def test_tags_that_fit(tag: str, platform: Platform, libc: Libc, fits: bool) -> None:
    assert bool(parse_tag(tag) & set(supported_tags("3.12", platform, libc))) is fits
    if not fits:
        with pytest.raises(InputError, match="does not fit the base"):
            check_tags("x.whl", parse_tag(tag), "3.12", platform, libc)


def test_markers_are_those_of_the_bases_python_and_extras_are_followed() -> None:
    after = by_key(
        dist(
            "a",
            "1",
            "b>=2",
            "gone; python_version < '3'",
            "win; sys_platform == 'win32'",
            "arm; platform_machine == 'aarch64'",
        ),
        dist("b", "2.1.dev0", "c[fast]", "not a requirement ==="),
        dist("c", "1+local", "d==1; extra == 'fast'", "e; extra == 'slow'"),
        dist("D", "1.0"),
    )
    assert judge_requirements({}, after, python="3.12", platform=AMD64, whole=True).broken == ()
    on_arm = judge_requirements({}, after, python="3.12", platform=ARM64, whole=True).broken
    assert [str(each) for each in on_arm] == ["a 1 requires arm, and there is none"]
    without = {key: each for key, each in after.items() if key != "d"}
    (broken,) = judge_requirements(after, without, python="3.12", platform=AMD64, whole=True).broken
    assert (broken.by, broken.wanted, broken.found) == ("c", "d", None)


def test_what_was_unmet_before_and_what_is_not_shown() -> None:
    before = by_key(dist("a", "1", "b>=2", "hidden"), dist("b", "1"))
    after = by_key(dist("a", "1", "b>=2", "hidden"), dist("b", "1"), dist("n", "1", "elsewhere"))
    judged = judge_requirements(before, after, python="3.12", platform=AMD64, whole=False)
    assert [each.wanted for each in judged.before] == ["b"]
    assert {each.wanted for each in judged.unknown} == {"hidden", "elsewhere"}
    assert judged.broken == ()
    # What was there and is gone is broken, whatever else the base has.
    assert [each.wanted for each in judge_requirements(by_key(dist("a", "1", "b"), dist("b", "1")), by_key(dist("a", "1", "b")), python="3.12", platform=AMD64, whole=False).broken] == ["b"]  # fmt: skip


@pytest.mark.parametrize(
    ("root", "scripts", "python"),
    [
        ("usr/local/lib/python3.12/dist-packages", "usr/local/bin", "/usr/bin/python3"),
        ("usr/local/lib/python3.12/site-packages", "usr/local/bin", "/usr/local/bin/python3"),
        ("opt/venv/lib/python3.12/site-packages", "opt/venv/bin", "/opt/venv/bin/python3"),
        ("usr/lib/python3/dist-packages", "usr/bin", "/usr/bin/python3"),
    ],
)
def test_scripts_are_beside_the_python_that_runs_them(root: str, scripts: str, python: str) -> None:
    found = Schemes.of(root)
    assert (found.folder("scripts", "x", "x.whl"), found.python) == (scripts, python)
    with pytest.raises(InputError, match="cannot be told"):
        Schemes.of("vllm/packages").folder("scripts", "x", "x.whl")
