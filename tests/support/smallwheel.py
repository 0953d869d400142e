"""A small wheel of a package called `vllm`, and a project around it: the whole command line without any download."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import yaml

FILES: dict[str, bytes] = {
    "vllm/__init__.py": b'__version__ = "0.0.1"\n',
    "vllm/config.py": b"".join(b"option_%02d = %d\n" % (n, n) for n in range(40)),
    "vllm/engine/__init__.py": b"",
    "vllm/engine/args.py": b"def parse(argv):\n    return list(argv)\n\n\ndef main():\n    return parse([])\n",
    "vllm/old.py": b"gone = True\n",
}


def make_wheel(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """Write a wheel with a RECORD, as an installer takes it."""
    info = "vllm-0.0.1.dist-info"
    members = dict(files)
    members[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: vllm\nVersion: 0.0.1\n"
    members[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nTag: py3-none-any\n"
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in members.items()
    )
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return path


def make_project(root: Path, diffs: Mapping[str, bytes], *, base: str | None = None, **recipe: object) -> Path:
    """A project with one recipe `images/small.yaml`; returns its root. `diffs` become local overlays in their order."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "overlays").mkdir(exist_ok=True)
    (root / "profiles").mkdir(exist_ok=True)
    if base is None:
        make_wheel(root / "vllm-0.0.1-py3-none-any.whl")
        base = "wheel:vllm-0.0.1-py3-none-any.whl"
    for name, data in diffs.items():
        (root / "overlays" / name).write_bytes(data)
    (root / "profiles" / "tiny.yaml").write_text("name: tiny\nflags: {max-model-len: 16, enforce-eager: true}\n")
    document = {
        "name": "small",
        "base": base,
        "overlays": [{"file": f"overlays/{name}"} for name in diffs],
        "profiles": ["tiny"],
        "default_profile": "tiny",
        **recipe,
    }
    (root / "images" / "small.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return root
