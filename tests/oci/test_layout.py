"""Layouts: several writers at once lose nothing, killed ones leave nothing, and what is linked is checked."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder.oci.archive import write_archive
from builder.oci.layout import Layout, collect_garbage, write_layout
from builder.oci.types import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor, encode
from builder.util.errors import InputError, MismatchError
from builder.util.files import sha256
from tests.support.bases import INDEX, LINUX_AMD64, MANIFEST, PYTHON, Made, command, layer, package
from tests.support.cli import Ran, builder
from tests.support.kills import killed_at
from tests.support.smallwheel import make_project

REPOSITORY = Path(__file__).parents[2]


def is_whole(layout: Layout) -> set[str]:
    """Every blob that the layout names is there and is what it should be; the tags (what is about an image has none)."""
    queue = list(layout.entries())
    tags = {tag for each in queue if (tag := each.annotations.get("org.opencontainers.image.ref.name"))}
    while queue:
        descriptor = queue.pop()
        document = json.loads(layout.read(descriptor))
        children = [*document.get("manifests", []), *document.get("layers", []), document.get("config")]
        for child in filter(None, children):
            found = Descriptor.from_json(child)
            if found.media_type in (OCI_INDEX, OCI_MANIFEST):
                queue.append(found)
            else:
                assert len(layout.read_blob(found.digest)) == found.size
    return tags


def many(root: Path, count: int) -> list[str]:
    """A project with so many recipes that differ."""
    diff = (
        b"--- a/vllm/config.py\n+++ b/vllm/config.py\n@@ -1,2 +1,2 @@\n-option_00 = 0\n+option_00 = 1\n option_01 = 1\n"
    )
    make_project(root, {"one.diff": diff})
    text = (root / "images/small.yaml").read_text()
    names = [f"r{number}" for number in range(count)]
    for name in names:
        (root / f"images/{name}.yaml").write_text(text.replace("name: small", f"name: {name}"))
    return names


def at_once(root: Path, commands: list[list[str]]) -> list[Ran]:
    with concurrent.futures.ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda command: builder(*command, cwd=root), commands))


def test_eight_recipes_built_into_one_layout_at_once_are_all_in_it(tmp_path: Path) -> None:
    names = many(tmp_path, 8)
    arguments = ["--engine", "oci", "--output", "oci:out", "--json"]
    done = at_once(tmp_path, [["build", name, *arguments] for name in names])
    assert [each.code for each in done] == [0] * 8, [each.err for each in done]
    tags = is_whole(Layout(tmp_path / "out"))
    assert {tag for each in done for tag in each.document["tags"]} == tags
    assert len(tags) == 8
    together = {path.name for path in (tmp_path / "out/blobs/sha256").iterdir()}
    for name in names:
        assert builder("build", name, "--engine", "oci", "--output", "oci:alone", cwd=tmp_path).code == 0
    assert {path.name for path in (tmp_path / "alone/blobs/sha256").iterdir()} == together
    assert (tmp_path / "alone/index.json").read_bytes() == (tmp_path / "out/index.json").read_bytes()


def test_one_recipe_built_at_once_gives_one_image(tmp_path: Path) -> None:
    many(tmp_path, 1)
    done = at_once(tmp_path, [["build", "r0", "--engine", "oci", "--json"]] * 4)
    assert [each.code for each in done] == [0] * 4, [each.err for each in done]
    assert len({each.document["digest"] for each in done}) == 1
    assert len(is_whole(Layout(tmp_path / "dist/r0"))) == 1
    assert sum("making it" in each.err for each in done) == 1


def test_an_archive_at_once_is_one_of_them(tmp_path: Path) -> None:
    many(tmp_path, 1)
    dead = tmp_path / ".builder-dead"
    (dead / "layout").mkdir(parents=True)
    done = at_once(tmp_path, [["build", "r0", "--engine", "oci", "--output", "oci-archive:out.tar"]] * 3)
    assert [each.code for each in done] == [0] * 3, [each.err for each in done]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def small(text: bytes, name: str) -> tuple[Descriptor, dict[str, bytes]]:
    config = encode({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}, "x": name})
    described = Descriptor(OCI_LAYER, f"sha256:{sha256(text)}", len(text))
    document = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [described.as_json()],
        "config": Descriptor("application/vnd.oci.image.config.v1+json", f"sha256:{sha256(config)}", len(config)).as_json(),
    }  # fmt: skip
    manifest = encode(document)
    digest = f"sha256:{sha256(manifest)}"
    blobs = {f"sha256:{sha256(data)}": data for data in (text, config, manifest)}
    return Descriptor(OCI_MANIFEST, digest, len(manifest)), blobs


def test_a_layout_that_somebody_holds_is_waited_for_and_its_holder_named(tmp_path: Path) -> None:
    top, blobs = small(b"layer", "a")
    folder = tmp_path / "out"
    folder.mkdir()
    script = (
        "import sys; from pathlib import Path; from builder.util.holding import holding\n"
        "with holding(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == b"held\n"
    told: list[str] = []

    def waiting(who: str) -> None:
        told.append(who)
        assert child.stdin is not None
        child.stdin.close()

    write_layout(folder, "a", [(top, ["one"])], blobs, waiting=waiting)
    child.wait(timeout=60)
    child.stdout.close()
    assert told == [f"process {child.pid}"]
    assert is_whole(Layout(folder)) == {"one"}


def test_leftovers_of_killed_runs_are_cleared_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    top, blobs = small(b"layer", "a")
    write_layout(tmp_path, "a", [(top, ["one"])], blobs)
    folder = tmp_path / "blobs/sha256"
    (folder / f".{'0' * 64}.abc.tmp").write_bytes(b"half")
    (folder / ("1" * 64)).write_bytes(b"a blob that no index names")
    (tmp_path / ".index.json.abc.tmp").write_bytes(b"half")
    alive = folder / f".{'2' * 64}.def.tmp"
    script = (
        "import fcntl, sys; stream = open(sys.argv[1], 'wb'); fcntl.flock(stream, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(alive)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    write_layout(tmp_path, "a", [(top, ["one"])], blobs)
    assert alive.exists()
    child.communicate(b"", timeout=60)
    write_layout(tmp_path, "a", [(top, ["one"])], blobs)
    assert {path.name for path in folder.iterdir()} == {digest[7:] for digest in blobs}
    assert {path.name for path in tmp_path.iterdir()} == {"blobs", "index.json", "oci-layout"}


def test_what_others_have_put_into_a_layout_stays(tmp_path: Path) -> None:
    """Manifests without a media type of their own, nested indexes, artifacts and referrers name blobs too."""
    made = Made(tmp_path / "out")
    inner = made.image([layer(*PYTHON)], manifest=lambda document: document.pop("mediaType"))
    config = made.put(b"{}", "application/vnd.oci.empty.v1+json")
    referrer = made.json(
        {"schemaVersion": 2, "subject": inner, "config": config, "layers": [made.put(b"evidence", "text/plain")]}, MANIFEST
    )  # fmt: skip
    tagged = {"annotations": {"org.opencontainers.image.ref.name": "theirs"}}
    made.write({**made.index(made.index(inner), referrer), **tagged})
    top, blobs = small(b"layer", "a")
    write_layout(made.path, "a", [(top, ["one"])], blobs)
    assert {path.name for path in (made.path / "blobs/sha256").iterdir()} == {
        *made.blobs, *(digest[7:] for digest in blobs),
    }  # fmt: skip
    assert is_whole(Layout(made.path)) == {"one", "theirs"}


def test_nothing_is_removed_when_it_cannot_be_told_what_is_named(tmp_path: Path) -> None:
    made = Made(tmp_path / "out")
    odd = made.put(b'{"layers": [{"digest": 5}]}', INDEX, annotations={"org.opencontainers.image.ref.name": "odd"})
    kept = made.put(b"perhaps a layer of it", "x")
    made.write(odd)
    top, blobs = small(b"layer", "a")
    write_layout(made.path, "a", [(top, ["one"])], blobs)
    assert Layout(made.path).blob_path(kept["digest"]).exists()
    collect_garbage(Layout(made.path))
    assert Layout(made.path).blob_path(kept["digest"]).exists()


@pytest.mark.parametrize("place", ["base", "output"])
def test_a_layer_that_is_linked_is_checked_and_a_damaged_copy_is_replaced(tmp_path: Path, place: str) -> None:
    data = layer(*package())
    base, out = Layout(tmp_path / "base"), tmp_path / "out"
    described = Descriptor(OCI_LAYER, f"sha256:{sha256(data)}", len(data))
    base.blob_path(described.digest).parent.mkdir(parents=True)
    base.blob_path(described.digest).write_bytes(data)
    top, blobs = small(b"layer", "a")
    wrong = {described.digest: f"sha256:{'0' * 64}"}
    with pytest.raises(MismatchError, match="diff id"):
        write_layout(out, "a", [(top, ["one"])], blobs, [described], local=base, diff_ids=wrong)
    assert not (out / "index.json").exists()
    right = {described.digest: described.digest}
    write_layout(out, "a", [(top, ["one"])], blobs, [described], local=base, diff_ids=right)
    if place == "output":
        damaged = Layout(out).blob_path(described.digest)
        damaged.unlink(missing_ok=True)
        damaged.write_bytes(data[:-1] + b"x")
        write_layout(out, "a", [(top, ["one"])], blobs, [described], local=base, diff_ids=right)
        assert not damaged.exists() or damaged.read_bytes() == data
    else:
        base.blob_path(described.digest).write_bytes(data[:-1] + b"x")
        Layout(out).blob_path(described.digest).unlink(missing_ok=True)
        with pytest.raises(MismatchError):
            write_layout(out, "a", [(top, ["one"])], blobs, [described], local=base, diff_ids=right)


def test_a_damaged_blob_does_not_get_into_an_archive(tmp_path: Path) -> None:
    for change in (lambda data: data + b"x", lambda data: data[:-1], lambda data: b"LAYER"):
        top, blobs = small(b"layer", "a")
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write_layout(folder, "a", [(top, ["one"])], blobs)
        path = Layout(folder).blob_path(f"sha256:{sha256(b'layer')}")
        path.write_bytes(change(b"layer"))
        with pytest.raises(MismatchError):
            write_archive(folder / "out.tar", Layout(folder), top, ["a:one"], LINUX_AMD64)
        assert not (folder / "out.tar").exists()


@pytest.mark.parametrize("name", ["file", "folder"])
def test_a_users_folder_is_never_written_into(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text("mine")
    top, blobs = small(b"layer", "a")
    with pytest.raises(InputError):
        write_layout(tmp_path / name, "a", [(top, ["one"])], blobs)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["mine"]


def test_a_build_that_is_killed_at_any_step_is_made_good_by_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every change that the run makes to a file below the project, one after another, is where a run ends."""
    names = many(tmp_path, 2)
    arguments = ["--engine", "oci", "--output", f"oci:{tmp_path}/out"]
    assert command(tmp_path, capsys, "build", names[0], *arguments).code == 0
    wanted = command(tmp_path, capsys, "build", names[1], "--engine", "oci", "--output", "oci:other").document
    (tmp_path / "out/blobs/sha256" / ("1" * 64)).write_bytes(b"an earlier build's")
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    ends: set[int] = set()
    for step in range(1, 200):
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "before", tmp_path / "out")
        if not killed_at(step, tmp_path, "build", names[1], *arguments):
            break
        ends.add(len(is_whole(Layout(tmp_path / "out"))))
        assert command(tmp_path, capsys, "build", names[1], *arguments).code == 0
        assert set(wanted["tags"]) < is_whole(Layout(tmp_path / "out"))
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"blobs", "index.json", "oci-layout"}
        assert not [path.name for path in (tmp_path / "out/blobs/sha256").iterdir() if path.name.startswith(".")]
    else:
        raise AssertionError("it never ended by itself")
    assert ends == {1, 2}
    assert step > 10
