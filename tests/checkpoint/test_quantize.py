"""Quantized checkpoints: what is written, that it is always the same, and that nothing wrong is ever left behind."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.checkpoint.digest import digest_directory
from builder.checkpoint.error import errors_against
from builder.checkpoint.header import HEADER_LIMIT, read_header
from builder.checkpoint.quantize.fp8 import quantize_numpy
from builder.checkpoint.quantize.run import quantize
from builder.checkpoint.quantize.workplace import MARKER
from builder.cli.app import run
from builder.util.context import Context
from builder.util.errors import InputError
from tests.checkpoint.test_fp8 import reference, torch_
from tests.support.checkpoints import (
    EMBED,
    HEAD,
    bf16,
    make_checkpoint,
    make_qwen,
    normal,
    qwen_config,
    qwen_shards,
    write_shard,
)  # fmt: skip
from tests.support.cli import builder, builder_peak
from tests.support.kills import fork_killed_at
from tests.support.services import leave_out, require_root

REPOSITORY = Path(__file__).parents[2]


def make(source: Path, target: Path, **options: Any) -> Any:
    return quantize(source, target, context=Context(), **options)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def only(folder: Path, *names: str) -> None:
    """Nothing else is in the folder, hidden or not."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_what_is_written_is_what_torch_and_the_library_read(tmp_path: Path) -> None:
    torch = torch_()
    from safetensors import safe_open

    source = make_qwen(tmp_path / "source")
    made = make(source, tmp_path / "dest")
    with (
        safe_open(tmp_path / "dest/outside.safetensors", "pt") as new,
        safe_open(source / "outside.safetensors", "pt") as old,
    ):
        assert new.metadata() == {"format": "pt"}
        for name in (HEAD, EMBED):
            x = old.get_tensor(name)
            q, scale = new.get_tensor(name), new.get_tensor(f"{name}_scale_inv")
            assert (q.dtype, scale.dtype) == (torch.float8_e4m3fn, torch.bfloat16)
            assert (tuple(q.shape), tuple(scale.shape)) == ((500, 320), (4, 3))
            codes, scales = reference(x.view(torch.int16).numpy().view(np.uint16), (128, 128))
            np.testing.assert_array_equal(q.view(torch.uint8).numpy(), codes)
            np.testing.assert_array_equal(scale.view(torch.int16).numpy().view(np.uint16), scales)
            wide = scale.float().repeat_interleave(128, 0)[:500].repeat_interleave(128, 1)[:, :320]
            error = (q.float() * wide - x.float()).norm() / x.float().norm()
            assert error < 0.0266
        for name in set(old.keys()) - {HEAD, EMBED}:
            assert torch.equal(new.get_tensor(name), old.get_tensor(name))
    config = json.loads((tmp_path / "dest/config.json").read_text())
    wanted = qwen_config()
    wanted["quantization_config"] |= {
        "modules_to_not_convert": ["model.visual.merger"], "lm_head": True, "embed_tokens": True, "embeddings": True,
    }  # fmt: skip
    assert config == wanted
    index = json.loads((tmp_path / "dest/model.safetensors.index.json").read_text())
    headers = {path.name: read_header(path) for path in (tmp_path / "dest").glob("*.safetensors")}
    assert index["weight_map"] == {name: shard for shard, header in headers.items() for name in header.tensors}
    assert index["metadata"]["total_size"] == sum(
        each.nbytes for header in headers.values() for each in header.tensors.values()
    )
    record = json.loads((tmp_path / "dest/quantization.json").read_text())
    assert record["source"]["digest"] == digest_directory(source, context=Context(), cache=False).digest
    assert record["method"]["block"] == [128, 128]
    measured = {each.name: each for each in errors_against(tmp_path / "dest", source, context=Context())}
    for name in (HEAD, EMBED):
        assert record["tensors"][name]["relative_rms_error"] == pytest.approx(
            measured[name].relative_rms_error, rel=1e-4
        )
        assert sum(measured[name].histogram) == 12
    assert made.target.digest == digest_directory(tmp_path / "dest", context=Context(), cache=False).digest
    assert made.saved == 2 * (500 * 320 - 4 * 3 * 2)
    only(tmp_path, "source", "dest")


def test_the_same_bytes_whatever_the_threads_the_kernel_and_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wide enough for several pieces, so that threads can finish in another order.
    source = make_checkpoint(tmp_path / "source", qwen_shards(rows=3000, cols=4096))
    made = [make(source, tmp_path / f"threads-{count}", threads=count) for count in (1, 2, 7)]
    made.append(make(source, tmp_path / "copy", copy=True, cache=False))
    monkeypatch.setattr("builder.checkpoint.quantize.run.fastest_kernel", lambda: quantize_numpy)
    made.append(make(source, tmp_path / "numpy"))
    assert len({each.target.digest for each in made}) == 1
    first = tree(tmp_path / "threads-1")
    for other in ("threads-2", "threads-7", "copy", "numpy"):
        assert tree(tmp_path / other) == first
    assert {path.stat().st_nlink for path in (tmp_path / "copy").iterdir()} == {1}
    searched = make(source, tmp_path / "search", search=True)
    assert searched.target.digest != made[0].target.digest
    assert all(
        a.relative_rms_error < b.relative_rms_error for a, b in zip(searched.tables, made[0].tables, strict=True)
    )
    assert "squared" in (tmp_path / "search/quantization.json").read_text()


@pytest.mark.parametrize("rows", [1, 127, 129])
@pytest.mark.parametrize("cols", [1, 129, 130])
def test_odd_tables_between_tensors_of_every_size(tmp_path: Path, rows: int, cols: int) -> None:
    from safetensors import safe_open

    x = normal(rows, cols)
    tensors = {"a": np.ones((3,), np.float32), "t.weight": x, "z": np.full((5,), 2, np.float32), "b": normal(1, 7)}
    source = make_checkpoint(tmp_path / "source", {"one.safetensors": tensors})
    made = make(source, tmp_path / "dest", tensors=["t.weight"])
    assert made.target.digest == digest_directory(tmp_path / "dest", context=Context(), cache=False).digest
    wanted = quantize_numpy(x, (128, 128), search=False)
    torch = torch_()
    with safe_open(tmp_path / "dest/one.safetensors", "pt") as found:
        np.testing.assert_array_equal(found.get_tensor("t.weight").view(torch.uint8).numpy(), wanted.values)
        assert found.get_tensor("z").tolist() == [2.0] * 5
        scale = found.get_tensor("t.weight_scale_inv").view(torch.int16).numpy().view(np.uint16)
        np.testing.assert_array_equal(scale, wanted.scales)


def test_a_checkpoint_whose_head_is_fp8_already_and_one_in_a_single_file(tmp_path: Path) -> None:
    shards = qwen_shards()
    head = quantize_numpy(shards["outside.safetensors"][HEAD], (128, 128), search=False)
    shards["outside.safetensors"] |= {HEAD: head.values, f"{HEAD}_scale_inv": head.scales}
    config = qwen_config()
    config["quantization_config"] |= {"lm_head": True, "modules_to_not_convert": ["model.language_model.embed_tokens"]}
    make(make_checkpoint(tmp_path / "lm", shards, config), tmp_path / "lm-dest")
    make(make_qwen(tmp_path / "plain"), tmp_path / "plain-dest")
    ours, theirs = (
        {k: (v["dtype"], v["shape"]) for k, v in header(tmp_path / name).items()} for name in ("lm-dest", "plain-dest")
    )
    assert ours == theirs
    done = json.loads((tmp_path / "lm-dest/config.json").read_text())["quantization_config"]
    assert all(done[key] is True for key in ("lm_head", "embed_tokens", "embeddings"))
    assert builder("checkpoint", "check", str(tmp_path / "lm-dest"), cwd=tmp_path).code == 0
    single = make_checkpoint(tmp_path / "single", {"model.safetensors": qwen_shards()["outside.safetensors"]})
    (single / "model.safetensors.index.json").unlink()
    make(single, tmp_path / "single-dest")
    assert builder("checkpoint", "check", str(tmp_path / "single-dest"), cwd=tmp_path).code == 0
    with pytest.raises(InputError, match="nothing to do"):
        make(tmp_path / "lm-dest", tmp_path / "again")


def header(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {"dtype": each.dtype, "shape": each.shape}
        for name, each in read_header(folder / "outside.safetensors").tensors.items()
    }
    return found


def edited(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "config.json") -> Path:
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))
    return folder


def truncate(folder: Path) -> None:
    os.truncate(folder / "outside.safetensors", (folder / "outside.safetensors").stat().st_size - 1)


def overlap(folder: Path) -> None:
    path = folder / "layers-0.safetensors"
    data = path.read_bytes()
    place = data.index(b"data_offsets")
    raw = bytearray(data)
    # The first tensor's end moves by one digit: it now overlaps or no longer fits.
    digit = data.index(b"]", place) - 1
    raw[digit] = ord("0") + (raw[digit] - ord("0") + 1) % 10
    path.write_bytes(bytes(raw))


def huge_header(folder: Path) -> None:
    with (folder / "layers-1.safetensors").open("wb") as stream:
        stream.write((100_000_000).to_bytes(8, "little") + b"{")
        stream.truncate(8 + 100_000_000)
    assert HEADER_LIMIT < 100_000_000


def lie(folder: Path) -> None:
    edited(
        folder, lambda index: index["weight_map"].update({HEAD: "layers-0.safetensors"}), "model.safetensors.index.json"
    )


def invent(folder: Path) -> None:
    edited(
        folder, lambda index: index["weight_map"].update(ghost="layers-0.safetensors"), "model.safetensors.index.json"
    )


def escape(folder: Path) -> None:
    edited(folder, lambda index: index["weight_map"].update({HEAD: "../x.safetensors"}), "model.safetensors.index.json")


def poison(folder: Path) -> None:
    shards = qwen_shards()["outside.safetensors"]
    shards[EMBED] = shards[EMBED].copy()
    shards[EMBED][300, 200] = 0x7FC0
    write_shard(folder / "outside.safetensors", shards)


def change_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: edited(folder, change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is truncated"),
        (overlap, "layers-0.safetensors has an unsound safetensors header"),
        (huge_header, "header too large"),
        (lie, "is not in layers-0.safetensors, though the index lists it there"),
        (invent, "ghost"),
        (escape, "not a shard beside it"),
        (poison, "embed_tokens.weight has NaN or infinity in it"),
        (lambda folder: (folder / "layers-1.safetensors").unlink(), "cannot read layers-1.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "cannot read config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (change_config(lambda config: config.update(tie_word_embeddings=True)), "ties lm_head to embed_tokens"),
        (change_config(lambda config: config.pop("quantization_config")), "is not block FP8"),
        (lambda folder: (folder / "gone.json").symlink_to("nowhere"), "cannot read"),
        (lambda folder: (folder / "p.bin").write_text("version https://git-lfs.github.com/spec/v1\n"), "git-LFS pointer"),
    ],
)  # fmt: skip
def test_a_damaged_source_has_its_message_and_leaves_nothing(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    source = make_qwen(tmp_path / "source")
    damage(source)
    done = builder("checkpoint", "quantize", str(source), str(tmp_path / "dest"), "--json", cwd=tmp_path)
    assert done.code == 2, done.err
    assert message in json.dumps(done.document["error"], ensure_ascii=False)
    assert done.document["error"]["hint"]
    only(tmp_path, "source")


def test_a_target_that_exists_or_lies_in_the_source_is_refused(tmp_path: Path) -> None:
    source = make_qwen(tmp_path / "source")
    (tmp_path / "dest").mkdir()
    for target, message in (("dest", "exists"), ("source", "inside"), ("source/sub", "inside")):
        with pytest.raises(InputError, match=message):
            make(source, tmp_path / target)
    with pytest.raises(InputError, match=r"there is no tensor"):
        make(source, tmp_path / "new", tensors=["lm_heads.weight"])
    only(tmp_path, "source", "dest")


@pytest.mark.parametrize(
    "occupy",
    [
        lambda partial, other: partial.symlink_to(other),
        lambda partial, other: partial.symlink_to("nowhere"),
        lambda partial, other: partial.write_text("mine"),
        lambda partial, other: os.mkfifo(partial),
        lambda partial, other: other.rename(partial),
        lambda partial, other: (other / "new").mkdir() or other.rename(partial),
    ],
)
def test_what_has_the_hidden_name_and_is_not_ours_stays_as_it_is(
    tmp_path: Path, occupy: Callable[[Path, Path], object]
) -> None:
    source = make_qwen(tmp_path / "source")
    other = tmp_path / "other"
    other.mkdir()
    (other / "letters.txt").write_text("dear")
    partial = tmp_path / ".dest.partial"
    occupy(partial, other)
    before = {path: path.lstat() for path in sorted(tmp_path.rglob("*"))}
    done = builder("checkpoint", "quantize", str(source), str(tmp_path / "dest"), "--json", cwd=tmp_path)
    assert done.code == 2, done.err
    assert "is in the way" in done.document["error"]["message"]
    assert done.document["error"]["hint"]
    after = {path: path.lstat() for path in sorted(tmp_path.rglob("*"))}
    assert [(path, stat.st_ino, stat.st_mtime_ns) for path, stat in after.items()] == [
        (path, stat.st_ino, stat.st_mtime_ns) for path, stat in before.items()
    ]


@pytest.mark.parametrize("where", [".out.partial", ".out.partial/new", ".out.partial/new/deep"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_source_where_the_target_would_be_made_is_refused(tmp_path: Path, where: str, *, linked: bool) -> None:
    """Even where the folder is marked: what a killed run has left may have been taken for a checkpoint."""
    source = make_qwen(tmp_path / where)
    (tmp_path / ".out.partial" / MARKER).touch()
    before = tree(source)
    name = tmp_path / "link" if linked else source
    if linked:
        name.symlink_to(source)
    done = builder("checkpoint", "quantize", str(name), "out", "--json", cwd=tmp_path)
    assert done.code == 2, done.err
    assert "would be removed" in done.document["error"]["message"]
    assert tree(source) == before


def test_what_a_killed_run_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    source, target = make_qwen(tmp_path / "source"), tmp_path / "dest"
    partial = tmp_path / ".dest.partial"
    # Killed before the marker; behind it; in the middle.
    for names in ((), (MARKER,), (MARKER, "new/model.safetensors", "new/sub/config.json")):
        partial.mkdir()
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(b"old")
        make(source, target)
        assert "model.safetensors" not in tree(target)
        only(tmp_path, "source", "dest")
        shutil.rmtree(target)
    # What somebody has put beside it stays, and so does what a link in place of the new folder leads to.
    partial.mkdir()
    for name in (MARKER, "letters.txt"):
        (partial / name).write_bytes(b"")
    (partial / "new").symlink_to(source)
    wanted = tree(source)
    make(source, target)
    assert tree(source) == wanted
    only(partial, MARKER, "letters.txt")


@pytest.mark.parametrize(("copy", "name"), [(False, "new/outside.safetensors"), (True, "new/layers-0.safetensors")])
@pytest.mark.parametrize("number", [errno.EIO, errno.EFBIG])
def test_a_disk_that_fails_is_no_bug_and_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str, *, copy: bool
) -> None:
    source = make_qwen(tmp_path / "source")
    real = os.fsync

    def failing(handle: int) -> None:
        if str(Path(f"/proc/self/fd/{handle}").readlink()).endswith(name):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr("os.fsync", failing)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run(["checkpoint", "quantize", str(source), str(tmp_path / "dest"), "--json", *["--copy"] * copy])
    error = json.loads(out.getvalue())["error"]
    assert (code, error["message"]) == (2, os.strerror(number))
    assert error["details"] == [{"label": "where", "text": str(tmp_path / ".dest.partial" / name)}]
    assert "make room" not in error["hint"]
    only(tmp_path, "source")


def test_a_limit_of_file_sizes_ends_with_the_name_of_the_file(tmp_path: Path) -> None:
    source = make_qwen(tmp_path / "source", rows=4000)
    limited = f"ulimit -f 200; exec {sys.executable} -m builder checkpoint quantize source dest --no-cache"
    done = subprocess.run(
        ["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert ".dest.partial/new/outside.safetensors" in done.stderr
    only(tmp_path, "source")
    assert source.exists()


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes, at whatever stage: the table's shard, a carried one, a new file, a shard swapped by rename."""

    def touch(path: Path) -> None:
        with path.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"?")
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))

    changes: list[Callable[[Path], object]] = [
        lambda source: touch(source / "outside.safetensors"),
        lambda source: touch(source / "layers-0.safetensors"),
        lambda source: touch(source / "config.json"),
        lambda source: (source / "new.json").write_text("{}"),
        lambda source: os.truncate(source / "outside.safetensors", 5000),
        lambda source: (make_qwen(source.parent / "other") / "outside.safetensors").replace(
            source / "outside.safetensors"
        ),
    ]  # fmt: skip
    for number, change in enumerate(changes):
        place = tmp_path / str(number)
        source = make_qwen(place / "source")
        once = threading.Event()

        def kernel(
            x: Any, block: Any, *, search: bool, change: Any = change, source: Path = source, once: Any = once
        ) -> Any:
            if not once.is_set():
                once.set()
                change(source)
            return quantize_numpy(x, block, search=search)

        monkeypatch.setattr("builder.checkpoint.quantize.run.fastest_kernel", lambda kernel=kernel: kernel)
        with pytest.raises(InputError, match="changed while it was read"):
            make(source, place / "dest")
        assert once.is_set()
        only(place, *(["source", "other"] if (place / "other").exists() else ["source"]))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_step_the_next_run_makes_it(tmp_path: Path) -> None:
    """At each change to a file; every second time two runs in a row."""
    source, dest, wanted = make_qwen(tmp_path / "source"), tmp_path / "dest", tmp_path / "wanted"
    make(source, wanted)
    arguments = ["checkpoint", "quantize", str(source), str(dest)]
    for step in itertools.count(1):
        killed = [fork_killed_at(step, tmp_path, *arguments) for _ in range(1 + step % 2) if not dest.exists()]
        if not dest.exists():
            make(source, dest)
        assert tree(dest) == tree(wanted), step
        # What a killed run left beside a whole checkpoint goes when the next one is made.
        shutil.rmtree(dest)
        make(source, dest)
        only(tmp_path, "source", "dest", "wanted")
        shutil.rmtree(dest)
        if not all(killed):
            break
    assert step > 20


def writing(folder: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process of the command, which writes the shard of the tables."""
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    while not (folder / ".dest.partial/new/outside.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.001)
    return process


def test_killed_while_it_writes_the_next_run_makes_it(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", qwen_shards(rows=12_000, cols=2048))
    make(source, tmp_path / "wanted", search=True)
    # With a search it takes long enough to be met while it writes.
    arguments = ["checkpoint", "quantize", str(source), str(tmp_path / "dest"), "--search"]
    process = writing(tmp_path, arguments)
    process.kill()
    process.communicate()
    assert (tmp_path / ".dest.partial").exists()
    done = builder(*arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    assert tree(tmp_path / "dest") == tree(tmp_path / "wanted")
    only(tmp_path, "source", "dest", "wanted")
    assert tree(source)["outside.safetensors"] != tree(tmp_path / "wanted")["outside.safetensors"]


def test_interrupted_it_cleans_up_and_two_at_once_do_not_meet(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", qwen_shards(rows=30_000, cols=2048))
    arguments = ["checkpoint", "quantize", str(source), str(tmp_path / "dest"), "--search"]
    process = writing(tmp_path, arguments)
    # Stopped while the second one runs: else it could be done before that, on a busy machine.
    process.send_signal(signal.SIGSTOP)
    second = builder(*arguments, cwd=tmp_path)
    assert second.code == 2
    assert "another run is making" in second.err
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    only(tmp_path, "source")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=False)
    if done.returncode != 0:
        leave_out("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_too_little_disk_is_found_out_first_and_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint(tmp_path / "source", qwen_shards(rows=4000, cols=1280))
    done = builder("checkpoint", "quantize", str(source), str(small_disk / "dest"), "--json", cwd=tmp_path)
    assert done.code == 2
    assert "too little room" in done.document["error"]["message"]
    only(small_disk)
    # Somebody else fills the disk after we have looked.
    monkeypatch.setattr("builder.checkpoint.quantize.run._check_disk", lambda place, needed: None)
    with pytest.raises(OSError, match="No space left"):
        make(source, small_disk / "dest")
    only(small_disk)
    # A table that fits is made there: no reflinks, no hard links across file systems, no O_DIRECT on some tmpfs.
    little = make_qwen(tmp_path / "little")
    assert make(little, small_disk / "dest").way == "copy"
    make(little, tmp_path / "dest")
    assert tree(small_disk / "dest") == tree(tmp_path / "dest")


def test_memory_stays_below_its_limit_whatever_the_table(tmp_path: Path) -> None:
    """Tables of 0.5 GiB and one row of blocks that is 64 MiB wide; peak in kB, as the kernel counts it."""
    table = bf16(np.random.default_rng(0).standard_normal((1024, 4096), np.float32))
    tall = np.broadcast_to(table, (64, 1024, 4096)).reshape(-1, 4096)
    wide = np.broadcast_to(table[:1], (256, 64, 4096)).reshape(256, -1)
    source = make_checkpoint(tmp_path / "source", {"model.safetensors": {"tall.weight": tall, "wide.weight": wide}})
    done, peak = builder_peak(
        "checkpoint", "quantize", str(source), str(tmp_path / "dest"), "--tensor", "tall.weight", "--tensor",
        "wide.weight", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert peak < 512 * 1024
