"""Commands as a user waits for them: start-up, a warm check, lint and fit, the entrypoint, drift, and many at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.measure import OURS, ROOT, Left, Row, Used, environment, pairs, run, timed, used
from bench.peers import NOT_INSTALLED, program

# kas builds from a description in YAML as well, and is written in Python.
_KAS = ("--version", "build --help")


def _called(*arguments: str, code: int = 0) -> Callable[[], Used]:
    return lambda: used(*OURS, *arguments, code=code)


def startup() -> Iterator[Row | Left]:
    """What is printed without a project's files, beside the import of click and nothing else."""
    kas = program("kas", of="kas")
    yield pairs(
        "start-up",
        {
            "builder --help": _called("--help"),
            "python -c 'import click'": lambda: used(sys.executable, "-c", "import click"),
            "builder build --help": _called("build", "--help"),
            "builder profile list": _called("profile", "list"),
            **({f"kas {text}": partial(used, kas, *text.split()) for text in _KAS} if kas else {}),
        },
        times=11,
    )
    if kas is None:
        yield Left("kas --version", NOT_INSTALLED)


def project() -> Iterator[Row | Left]:
    """The demo, with what an earlier run has kept."""
    yield pairs("check demo, warm", {"builder check": _called("check", "demo")}, times=9)
    yield pairs("profile lint, warm", {"builder profile lint": _called("profile", "lint", "smoke", "--recipe", "demo")})
    yield pairs(
        "profile fit",
        {"builder profile fit": _called("profile", "fit", "qwen3.6-27b-fp8-vocab", "smoke", "--gpu", "rtx-5090")},
    )
    with tempfile.TemporaryDirectory() as name:
        yield pairs(
            "20 builds at once, beside one",
            {"20 builder build": lambda: _at_once(Path(name), 20), "builder build": lambda: _at_once(Path(name), 1)},
            times=3,
        )


def _at_once(folder: Path, count: int) -> Used:
    def call() -> None:
        running = [
            subprocess.Popen(
                [*OURS, "build", "demo", "--engine", "oci", "--output", f"oci:{folder}/{number}"],
                cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for number in range(count)
        ]  # fmt: skip
        codes = [each.wait() for each in running]
        if any(codes):
            raise SystemExit("a build failed")

    return timed(call)


def drift() -> Iterator[Row | Left]:
    """A recipe of 50 pull requests, none of which has moved, on a server that imitates GitHub's routes."""
    from tests.support.github import github
    from tests.support.smallwheel import FILES, make_project

    with tempfile.TemporaryDirectory() as name, github(Path(name) / "github") as hub:
        folder = Path(name)
        hub.commit({**FILES, "README.md": b"one\n"}, "base")
        hub.tag("v0.0.1")
        numbers = range(1001, 1051)
        for number in numbers:
            head = hub.commit({f"vllm/part{number}.py": b"x = 1\n"}, f"part {number}", branch=f"feature{number}")
            hub.open_pull(number, head)
        overlays = [{"pull": f"vllm-project/vllm#{number}"} for number in numbers]
        place = make_project(folder / "project", {}, overlays=overlays)
        env = {
            "BUILDER_GITHUB_URL": hub.url,
            "BUILDER_GITHUB_API_URL": hub.url,
            "BUILDER_CACHE_DIR": str(folder / "cache"),
        }
        run(*OURS, "lock", "small", cwd=place, env=env)
        yield pairs(
            "drift of 50 overlays",
            {"builder drift": lambda: used(*OURS, "drift", "small", cwd=place, env=env)},
        )


def entrypoint() -> Iterator[Row | Left]:
    """From exec of the entrypoint to exec of the server, with the demo's record, against the interpreter alone."""
    from builder.pipeline.locking.make import ENTRYPOINT_SOURCE

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        own = root / "opt/builder"
        own.mkdir(parents=True)
        shutil.copy(ENTRYPOINT_SOURCE, own / "serve")
        (own / "serve").chmod(0o755)
        layout = root / "layout"
        document = json.loads(run(*OURS, "build", "demo", "--engine", "oci", "--output", f"oci:{layout}", "--json"))
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
        yield pairs(
            "entrypoint to exec",
            {
                "entrypoint": lambda: used(str(own / "serve"), binding, "smoke", env={**os.environ, **env}),
                "python3 -I -S and exec": lambda: used(
                    str(python), "-I", "-S", "-c", "import os; os.execvp('true', ['true'])"
                ),
            },
            times=21,
        )
