"""A fleet in Docker: the images that its Compose file names, in a registry on loopback, and Compose itself.

LiteLLM's and Prometheus' own images are on registries that tests do not reach. Both are made here of what the machine has:
Debian's Prometheus in an image of its own, laid out as the official one is; LiteLLM by a Debian image, whose virtual
environment is the one of `tests.support.router.proxy` and is mounted by an override file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

from builder.oci.layout import Layout
from builder.oci.registry.client import Registry
from tests.support.registry import skopeo_copy
from tests.support.router.proxy import KEY, environment
from tests.support.services import require
from tests.support.standin import standin_base, write_layout

_NOBODY = 65534
_LIBRARIES = ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6")
_WAIT_SECONDS = 240


def pushed(host: str, name: str, layout: Path, tag: str = "base") -> str:
    """Push an image to the registry; its name with the digest."""
    skopeo_copy(f"oci:{layout}:{tag}", f"docker://{host}/{name}:latest")
    return f"{host}/{name}@{Registry(host).manifest(name, 'latest')[2]}"


def prometheus_image(folder: Path) -> Path:
    """Debian's Prometheus as the official image has it: /bin/prometheus, run by nobody, who owns /prometheus."""
    require("prometheus")
    files = {"bin/prometheus": Path("/usr/bin/prometheus"), **{each[1:]: Path(each) for each in _LIBRARIES}}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("bin", "lib64", "lib", "lib/x86_64-linux-gnu", "etc", "etc/prometheus", "tmp", "prometheus"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            entry.uid = entry.gid = _NOBODY if name == "prometheus" else 0
            archive.addfile(entry)
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o755
            with path.open("rb") as stream:
                archive.addfile(entry, stream)
    config = {"User": str(_NOBODY), "WorkingDir": "/prometheus", "Entrypoint": ["/bin/prometheus"]}
    return write_layout(folder, [buffer.getvalue()], compress="", config=config)


def router_image(folder: Path) -> Path:
    """The stand-in's Debian with python3, and LiteLLM's program where the override file mounts it."""
    base = Layout(standin_base())
    manifest = json.loads(base.read(base.resolve()))
    config = json.loads(base.blob_path(manifest["config"]["digest"]).read_bytes())
    path = f"{environment()}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config["config"] = {"Env": [f"PATH={path}", "LANG=C.UTF-8"], "Entrypoint": ["litellm"], "WorkingDir": "/"}
    made = write_layout(folder, [])
    for each in manifest["layers"]:
        os.link(base.blob_path(each["digest"]), made / "blobs" / each["digest"].replace(":", "/"))
    manifest["config"] = put(made, config, manifest["config"]["mediaType"])
    entry = put(made, manifest, manifest["mediaType"])
    entry["annotations"] = {"org.opencontainers.image.ref.name": "base"}
    (made / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return made


def put(layout: Path, document: Any, media_type: str) -> dict[str, Any]:
    """Write a document into a layout; its descriptor."""
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def override() -> str:
    """A Compose file that mounts LiteLLM's virtual environment, what numpy needs, and another interpreter than Debian's."""
    mounts = [str(environment()), "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"]
    if sys.base_prefix != "/usr":
        mounts.append(sys.base_prefix)
    return yaml.safe_dump({"services": {"router": {"volumes": [f"{each}:{each}:ro" for each in mounts]}}})


def compose_program() -> list[str]:
    """Compose's plugin where there is one, else its program."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    require("docker-compose")
    return ["docker-compose"]


@dataclass
class Fleet:
    """The files of a fleet in `folder`, run by Compose as the project `name` on the engine at `engine`."""

    folder: Path
    engine: str
    name: str
    router_port: int
    prometheus_port: int
    files: tuple[str, ...] = ("compose.yaml",)
    program: list[str] = field(default_factory=compose_program)

    @property
    def router(self) -> str:
        return f"http://127.0.0.1:{self.router_port}"

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.prometheus_port}"

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What a command of Compose says; it must end well unless `check` is off."""
        env = {
            **os.environ, "DOCKER_HOST": self.engine, "LITELLM_MASTER_KEY": KEY, "COMPOSE_HTTP_TIMEOUT": "240",
            "ROUTER_PORT": str(self.router_port), "PROMETHEUS_PORT": str(self.prometheus_port),
        }  # fmt: skip
        files = [word for each in self.files for word in ("-f", each)]
        done = subprocess.run(
            [*self.program, "-p", self.name, *files, *arguments], cwd=self.folder, env=env, capture_output=True,
            text=True, check=False, timeout=280,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail=60", check=False)

    def ask(self, body: Mapping[str, Any], path: str = "/v1/chat/completions") -> requests.Response:
        head = {"Authorization": f"Bearer {KEY}"}
        return requests.post(f"{self.router}{path}", json=body, headers=head, timeout=120)

    def query(self, expression: str) -> list[Any]:
        """What Prometheus says of an expression. Raises `AssertionError` when it does not take it."""
        reply = requests.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=30)
        assert reply.status_code == 200, reply.text
        found: list[Any] = reply.json()["data"]["result"]
        return found

    def until(self, what: Callable[[], Any], why: str) -> Any:
        """The first true value of `what`; while a server does not respond, it is asked again."""
        end = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < end:
            try:
                found = what()
            except requests.RequestException:
                found = None
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{why}\n{self.logs()}")


def quick(folder: Path) -> None:
    """Let Prometheus look each second."""
    path = folder / "prometheus.yml"
    document = yaml.safe_load(path.read_text())
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    path.write_text(yaml.safe_dump(document))


def containers(fleet: Fleet) -> list[str]:
    """The containers of a fleet, running or not."""
    command = ["docker", "-H", fleet.engine, "ps", "-aq", "--filter", f"label=com.docker.compose.project={fleet.name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
