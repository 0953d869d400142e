"""The steps of `make demo-serve` that are not the builder's own. Usage: python -m tests.support.engine STEP ..."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import requests

from builder.util.errors import BuilderError, InputError
from tests.support.engine.base import ROOT, base_image, has_userland
from tests.support.engine.model import tiny_model
from tests.support.engine.packages import NEW, OLD, require_disk, require_machine
from tests.support.engine.project import make_project, own_layer
from tests.support.engine.questions import questions
from tests.support.engine.rootfs import command, unpacked
from tests.support.engine.server import environment

_DOCKER_BYTES, _PLAIN_BYTES = 9_000_000_000, 6_000_000_000


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


def way() -> None:
    """Print how the image will be run here: `docker`, or `plain`. Nothing is downloaded before this has passed."""
    require_machine()
    found = "docker" if _daemon() and has_userland() else "plain"
    if not OLD.site.is_dir():
        require_disk(_DOCKER_BYTES if found == "docker" else _PLAIN_BYTES)
    if found == "plain" and not _daemon():
        print("no Docker daemon answers: the image is unpacked, and run by this machine's Python", file=sys.stderr)
    elif found == "plain":
        print(
            "mmdebstrap is not installed: the image has no userland, and is run by this machine's Python",
            file=sys.stderr,
        )
    print(found)


def _daemon() -> bool:
    return (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=30).returncode == 0
    )


def project(folder: str, how: str) -> None:
    """Write the project with its base image and the tiny model."""
    base = base_image(OLD, _say, userland=how == "docker")
    make_project(Path(folder), base=base, model=tiny_model(_say))


def base(version: str) -> None:
    """Make the base image of a release, and print its layout as a recipe names it, with the digest."""
    found = next((each for each in (OLD, NEW) if each.version == version), None)
    if found is None:
        raise InputError(f"no base is made of vLLM {version}", hint=f"name one of: {OLD.version}, {NEW.version}")
    layout = base_image(found, _say)
    print(f"oci:{layout}@{json.loads((layout / 'index.json').read_text())['manifests'][0]['digest']}")


def unpack(folder: str) -> None:
    """Unpack the image that was built in `folder`, over the engine's packages."""
    root = Path(folder) / "dist/root"
    shutil.rmtree(root, ignore_errors=True)
    unpacked(OLD.site, own_layer(Path(folder) / "dist/demo-serve"), root)


def serve(folder: str, profile: str) -> None:
    """Become the image's entrypoint, as a container would: this process is then the server."""
    root, work = Path(folder).resolve() / "dist/root", Path(folder).resolve() / "dist/home"
    env = environment([root / ROOT], work) | {"BUILDER_MODEL": str(Path(folder).resolve() / "model")}
    words = command(root / "opt/builder/serve", profile, "--port", "8765")
    # The overlays read the record at /opt/builder: in a namespace of its own the process has the image's /opt.
    seen = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount --bind "$0" /opt && exec "$@"',
        str(root / "opt"),
    ]
    if shutil.which("unshare") and not words[0].startswith("/opt/"):
        probe = subprocess.run([*seen, "true"], capture_output=True, check=False)
        words = [*seen, *words] if probe.returncode == 0 else words
    os.chdir(work)
    os.execvpe(words[0], words, env)


def wait(url: str, pid: str) -> None:
    """Wait until the server answers; say now and then that it does not yet. Exit code 1 when it has ended."""
    begun = told = time.monotonic()
    while True:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return _say(f"healthy after {time.monotonic() - begun:.0f} s")
        except requests.RequestException:
            pass
        if not Path(f"/proc/{pid}").is_dir():
            raise InputError("the server has ended", hint="its last lines say why")
        if time.monotonic() - told > 20:
            told = time.monotonic()
            _say(f"{told - begun:.0f} s: vLLM imports its packages in three processes")
        time.sleep(0.5)


def ask(url: str) -> None:
    """Ask which overlays the server has, and one question that the tiny model can answer."""
    overlays = requests.get(f"{url}/overlays", timeout=30).json()["overlays"]
    _say(f"GET /overlays: {', '.join(overlays) or 'none, since the record is not at /opt/builder here'}")
    prompt, wanted = next(iter(questions().items()))
    model = requests.get(f"{url}/v1/models", timeout=30).json()["data"][0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    said = requests.post(f"{url}/v1/chat/completions", json=body, timeout=120).json()["choices"][0]["message"][
        "content"
    ]
    _say(f"{prompt} {said}")
    if said != wanted:
        raise InputError(f"the tiny model answered {said!r}", details=[("wanted", wanted)])


STEPS = {each.__name__: each for each in (way, base, project, unpack, serve, wait, ask)}

if __name__ == "__main__":
    try:
        STEPS[sys.argv[1]](*sys.argv[2:])
    except BuilderError as error:
        print(f"error: {error.message}", file=sys.stderr)
        for label, text in error.details:
            print(f"  {label}  {text}", file=sys.stderr)
        if error.hint:
            print(f"  next  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
