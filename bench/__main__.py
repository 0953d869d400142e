"""`make bench`: start-up, the stack, the checkpoint, and cold and warm builds by engine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.checkpoint import checkpoint
from bench.measure import ROOT, Row, median_ms, moved_bytes, run
from bench.promotion import promotion
from bench.publication import publication
from bench.router import router
from bench.stack import growth
from bench.verification import verification
from builder.cli.console import Console


def startup() -> list[Row]:
    bare = median_ms(lambda: run(sys.executable, "-c", "pass"))
    ours = median_ms(lambda: run(sys.executable, "-m", "builder", "--help"))
    return [("builder --help", f"{ours:.0f} ms", f"python -c pass: {bare:.0f} ms", f"{ours - bare:+.0f} ms")]


def entrypoint() -> list[Row]:
    """From exec of the entrypoint to exec of the server, with the demo's record, against the interpreter alone."""
    from builder.pipeline.locking.make import ENTRYPOINT_SOURCE

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        own = root / "opt/builder"
        own.mkdir(parents=True)
        shutil.copy(ENTRYPOINT_SOURCE, own / "serve")
        (own / "serve").chmod(0o755)
        layout = root / "layout"
        document = json.loads(
            run(
                sys.executable,
                "-m",
                "builder",
                "build",
                "demo",
                "--engine",
                "oci",
                "--output",
                f"oci:{layout}",
                "--json",
            )
        )
        run("tar", "-xf", str(layout / "blobs/sha256" / document["layer"]["digest"][7:]), "-C", name)
        record = json.loads((own / "record.json").read_text())
        record["base"]["entrypoint"] = ["true"]
        data = json.dumps(record).encode()
        (own / "record.json").write_bytes(data)
        binding = f"--record=sha256:{hashlib.sha256(data).hexdigest()}"
        (root / "model").mkdir()
        (root / "model/config.json").write_text("{}")
        # The interpreter itself: a version manager's shim on the PATH would take longer than what is measured.
        python = Path(sys.executable).resolve()
        (root / "bin").mkdir()
        (root / "bin/python3").symlink_to(python)
        env = {
            "BUILDER_MODEL": str(root / "model"), "BUILDER_CHECKPOINT_CHECK": "off",
            "PATH": f"{root}/bin:/usr/bin:/bin", "BUILDER_EXTRA_ARGS": "",
        }  # fmt: skip
        ours = median_ms(lambda: run(str(own / "serve"), binding, "smoke", env=env), times=21)
        bare = median_ms(lambda: run(str(python), "-I", "-S", "-c", "import os; os.execvp('true', ['true'])"), times=21)
    return [
        ("entrypoint to exec", f"{ours:.0f} ms", f"python3 -I -S and exec: {bare:.0f} ms", f"{ours - bare:+.0f} ms")
    ]


def stack() -> list[Row]:
    """The real stack against bare GNU patch, on the same diffs and files."""
    from builder.patch.stack import apply_stack
    from tests.support.realstack import overlay_diffs
    from tests.support.trees import DictTree, overlay, write_tree
    from tests.support.wheels import python_files

    diffs = overlay_diffs()
    base = python_files("0.20.0")
    touched = {change.path for diff in diffs for change in overlay("x", diff).diff.changes}
    files = {path: data for path, data in base.items() if path in touched}

    def bare() -> None:
        with tempfile.TemporaryDirectory() as name:
            write_tree(Path(name), files)
            for diff in diffs:
                argv = [
                    "patch",
                    "--forward",
                    "--batch",
                    "-p1",
                    "--fuzz=0",
                    "--no-backup-if-mismatch",
                    "--get=0",
                    "-s",
                    "-d",
                    name,
                ]
                subprocess.run(argv, input=diff, check=True, capture_output=True)

    def ours() -> None:
        overlays = [overlay(f"{number}.diff", diff) for number, diff in enumerate(diffs)]
        apply_stack(overlays, DictTree(files))

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["BUILDER_CACHE_DIR"] = name
        begun = time.perf_counter()
        ours()
        cold = (time.perf_counter() - begun) * 1000
        first, second = median_ms(ours), median_ms(bare)
        rows.append(
            (
                "stack of 46 file changes",
                f"{first:.0f} ms",
                f"GNU patch alone: {second:.0f} ms",
                f"{first / second:.2f} x",
            )
        )
        rows.append(
            (
                "the same, syntax not checked before",
                f"{cold:.0f} ms",
                f"GNU patch alone: {second:.0f} ms",
                f"{cold / second:.2f} x",
            )
        )
        del os.environ["BUILDER_CACHE_DIR"]
    return rows


def timed_build(label: str, peer: str, argv: list[str], *, cwd: Path, env: dict[str, str]) -> Row:
    before, begun = moved_bytes(), time.perf_counter()
    run(sys.executable, "-m", "builder", "build", *argv, cwd=cwd, env={"PYTHONPATH": str(ROOT), **env})
    seconds, size = time.perf_counter() - begun, moved_bytes() - before
    return (label, f"{seconds:.2f} s", peer, f"{size / 1e6:.2f} MB in")


def builds() -> list[Row]:
    """Cold (no cache) and warm builds: the demo from the wheel by range, the real stack on the stand-in base by engine."""
    from tests.support.dockerd import engine
    from tests.support.realstack import overlay_diffs
    from tests.support.registry import registry, skopeo_copy
    from tests.support.smallwheel import make_project
    from tests.support.standin import standin_base

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for label in ("demo, oci, cold", "demo, oci, warm"):
            env = {"BUILDER_CACHE_DIR": str(place / "demo-cache")}
            rows.append(
                timed_build(
                    label,
                    "wheel of 244 MB",
                    ["demo", "--engine", "oci", "--output", f"oci:{place}/demo"],
                    cwd=ROOT,
                    env=env,
                )
            )
        first, second = overlay_diffs()
        with registry(place / "registry") as host, engine() as daemon:
            skopeo_copy(f"oci:{standin_base()}:base", f"docker://{host}/vllm/base:v1")
            project = make_project(place / "project", {"1.diff": first, "2.diff": second}, base=f"{host}/vllm/base:v1")
            env = {"BUILDER_CACHE_DIR": str(place / "cache"), "DOCKER_HOST": daemon}
            run(sys.executable, "-m", "builder", "lock", "small", cwd=project, env={"PYTHONPATH": str(ROOT), **env})
            for kind in ("cold", "warm"):
                if kind == "cold":
                    shutil.rmtree(place / "cache")
                rows.append(
                    timed_build(
                        f"real stack, oci, {kind}",
                        "base of 75 MB in a registry",
                        ["small", "--engine", "oci"],
                        cwd=project,
                        env=env,
                    )
                )
            for kind in ("cold", "warm"):
                rows.append(
                    timed_build(
                        f"real stack, docker, {kind}",
                        "docker build pulls the base",
                        ["small", "--engine", "docker"],
                        cwd=project,
                        env=env,
                    )
                )
    return rows


def main() -> None:
    console = Console()
    rows: list[Row] = []
    chosen = sys.argv[1:]
    for part in (startup, entrypoint, stack, growth, checkpoint, builds, publication, verification, promotion, router):
        if chosen and part.__name__ not in chosen:
            continue
        console.say(f"measuring: {part.__name__}")
        rows += part()
    console.table(["what", "ours", "beside it", "difference"], rows)


if __name__ == "__main__":
    main()
