"""Many bases that lie, through `builder build`: none gives exit 1, takes long, takes much memory, or is built on wrongly.

    python tests/hostile/bases.py --count 1000

Each trial changes a sound base (layers, or JSON that those above it agree with), and builds a recipe on it. It prints a
table of exit codes with the longest CPU time and the largest memory, and exits 1 when a trial broke a promise.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import resource
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.cli.app import run
from tests.support.bases import PYTHON, ROOT, Item, Made, folder, hardlink, layer, package, recipe, symlink
from tests.support.mutations import mutated, mutated_json

SECONDS = 10.0
MEGABYTES = 500
VENV = "opt/venv/lib/python3.12/site-packages"
_NAMES = st.sampled_from(
    [ROOT, f"{ROOT}/vllm", f"{ROOT}/vllm/a.py", f"{ROOT}/vllm/b.py", "usr", "usr/local", "usr/local/lib", "usr/local/lib/python3.12",
     "usr/bin/python3", "opt", "opt/builder", "opt/venv", VENV, f"{VENV}/vllm/a.py", "lib", "etc/x", "opt/store/a"]
)  # fmt: skip


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    """Entries that replace, link, hide and remove the places that matter."""
    found: list[Item] = []
    for _ in range(draw(st.integers(0, 6))):
        name, other = draw(_NAMES), draw(_NAMES)
        parent, _, last = name.rpartition("/")
        made = {
            "file": Item(name, draw(st.sampled_from([b"", b"x7 = 7\n", b"home = /usr/bin\n"]))),
            "folder": folder(name),
            "link": symlink(name, draw(st.sampled_from([f"/{other}", other, "..", "."]))),
            "hard link": hardlink(name, draw(st.sampled_from([f"/{other}", other, f"./{other}"]))),
            "whiteout": Item(f"{parent}/.wh.{last}" if parent else f".wh.{last}"),
            "opaque": Item(f"{name}/.wh..wh..opq"),
            "device": Item(name, kind=tarfile.CHRTYPE),
        }
        found.append(made[draw(st.sampled_from(sorted(made)))])
    return found


@st.composite
def bases(draw: st.DrawFn, path: Path) -> None:
    """Write a base that is sound or not."""
    made = Made(path)
    places = draw(
        st.permutations([package(), *([package(VENV)] if draw(st.booleans()) else []), draw(items()), draw(items())])
    )
    tars = [layer(*PYTHON), *(layer(*each) for each in places)]
    if draw(st.booleans()):
        chosen = draw(st.integers(0, len(tars) - 1))
        tars[chosen] = draw(mutated(tars[chosen], 512))
    env = [
        draw(
            st.sampled_from(
                ["PATH=/usr/bin", "PATH=/opt/venv/bin:/usr/bin", f"PYTHONPATH=/{VENV}", "VIRTUAL_ENV=/opt/venv"]
            )
        )
    ]
    documents: dict[str, Any] = {}
    top = made.image(tars, env=env, compress=draw(st.booleans()), config=lambda found: documents.update(config=found))
    if draw(st.booleans()):
        manifest = json.loads(made.blobs[top["digest"][7:]])
        config = draw(mutated_json(documents["config"]))
        manifest["config"] = made.put(config, manifest["config"]["mediaType"])
        top = made.put(
            draw(mutated_json(manifest)) if draw(st.booleans()) else json.dumps(manifest).encode(), top["mediaType"]
        )
    made.write(top)


def check(root: Path) -> str | None:
    """What is wrong with an image that was built, told without the builder's own readers."""
    out = root / "dist/r"
    blobs = out / "blobs/sha256"
    for blob in blobs.iterdir():
        if hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name:
            return f"blob {blob.name} has other content"
    (entry,) = {each["digest"] for each in json.loads((out / "index.json").read_bytes())["manifests"]}
    manifest = json.loads((blobs / entry[7:]).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_bytes())
    found = []
    for described in manifest["layers"]:
        data = (blobs / described["digest"][7:]).read_bytes()
        if len(data) != described["size"]:
            return "a layer has another size"
        found.append(hashlib.sha256(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).hexdigest())
    return None if [f"sha256:{each}" for each in found] == config["rootfs"]["diff_ids"] else "a diff id is wrong"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    codes: Counter[int] = Counter()
    broken: list[str] = []
    longest = 0.0
    silent = Path(os.devnull).open("w")  # noqa: SIM115  for as long as the process lives
    outputs = sys.stdout, sys.stderr

    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        os.environ["BUILDER_CACHE_DIR"] = f"{name}/cache"

        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def trial(data: st.DataObject) -> None:
            nonlocal longest
            with tempfile.TemporaryDirectory(dir=name) as place:
                root = recipe(Path(place))
                data.draw(bases(root / "base"))
                os.chdir(root)
                begun = time.process_time()
                sys.stdout = sys.stderr = silent
                try:
                    code = run(["build", "r.yaml", "--engine", "oci", "--json"])
                finally:
                    sys.stdout, sys.stderr = outputs
                    os.chdir("/")
                took = time.process_time() - begun
                longest = max(longest, took)
                codes[code] += 1
                wrong = check(root) if code == 0 else "exit 1" if code == 1 else None
                if took > SECONDS:
                    wrong = f"{took:.1f} s"
                if wrong is not None:
                    broken.append(wrong)
                    raise AssertionError(wrong)

        try:
            trial()
        except Exception as error:  # noqa: BLE001  told below, with the input that Hypothesis found
            print(error, *getattr(error, "__notes__", ()), sep="\n")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{sum(codes.values())} bases; exit codes {dict(sorted(codes.items()))}; longest {longest:.2f} s; {memory} MB"
    )
    return 1 if broken or memory > MEGABYTES else 0


if __name__ == "__main__":
    sys.exit(main())
