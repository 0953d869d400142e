"""An image in the local Docker as a base: `docker:REF`. The image's own Python lists and reads just the files that matter.

The daemon does not keep registry manifests, so such a base has no layers for the `oci` engine to name; the `docker`
engine builds on it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from builder.base.interpreter import runs_module
from builder.base.model import BaseFile, BaseImage, Distribution, EntryKind, PackageTree
from builder.base.together import together
from builder.documents.reference import BaseReference, Platform
from builder.oci.daemon import daemon
from builder.oci.platforms import preference
from builder.oci.types import OCI_CONFIG, OCI_MANIFEST, Descriptor
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError
from builder.util.files import sha256

# Runs inside the image, on whatever Python it has: finds the package without importing it, then reads the paths that it is given.
_SCRIPT = r"""
import base64, importlib.metadata as metadata, importlib.util as util, json, os, stat, sys
package, paths, folders, outside, beside = json.loads(sys.argv[1])
if not beside:
    # The server is started by a script, which does not import from the working folder.
    sys.path[:] = [each for each in sys.path if each]
spec = util.find_spec(package)
if spec is None or not spec.origin:
    print(json.dumps({"missing": True})); sys.exit()
root = os.path.realpath(os.path.dirname(os.path.dirname(spec.origin)))
def entry(base, path, content):
    full = base
    for part in path.split("/"):
        full = os.path.join(full, part)
        if os.path.islink(full):
            return {"path": os.path.relpath(full, base), "kind": "symlink", "mode": 0o777, "target": os.readlink(full)}
    try:
        mode = os.lstat(full).st_mode
    except OSError:
        return None
    kind = "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "other"
    found = {"path": path, "kind": kind, "mode": stat.S_IMODE(mode), "target": ""}
    if content and kind == "file":
        with open(full, "rb") as stream:
            found["data"] = base64.b64encode(stream.read()).decode()
    return found
info = None
for each in metadata.distributions(path=[root]):
    files = each.read_text("RECORD") or ""
    if (package + "/__init__.py,") in files:
        info = [each.metadata["Name"], each.version, os.path.basename(str(each._path))]
        break
def kind(path):
    return "symlink" if os.path.islink(path) else "directory" if os.path.isdir(path) else "file"
def children(folder):
    full = os.path.join(root, folder)
    return {name: kind(os.path.join(full, name)) for name in os.listdir(full)} if os.path.isdir(full) else {}
print(json.dumps({
    "root": root.lstrip("/"), "python": "%d.%d" % sys.version_info[:2], "info": info,
    "read": [entry(root, path, True) for path in paths],
    "children": {folder: children(folder) for folder in folders},
    "outside": [entry("/", path, path.endswith("os-release")) for path in outside],
}))
"""


class DockerBase:
    """A base by the name that the daemon knows it by."""

    def __init__(self, reference: BaseReference, *, context: Context) -> None:
        self.reference = reference.text
        self._name = reference.target
        self._context = context

    def image(self, platform: Platform) -> BaseImage:
        with daemon() as client:
            attributes = _inspect(client, self._name)
        found = {"os": attributes.get("Os"), "architecture": attributes.get("Architecture")}
        if preference(platform, {**found, "variant": attributes.get("Variant") or ""}) is None:
            raise InputError(f"{self.reference} is for {found['os']}/{found['architecture']}, not {platform}")
        config = _encode(
            {
                **found,
                "created": attributes.get("Created") or None,
                "config": attributes.get("Config") or {},
                "rootfs": {"type": "layers", "diff_ids": attributes.get("RootFS", {}).get("Layers") or []},
            }
        )
        descriptor = Descriptor(OCI_CONFIG, f"sha256:{sha256(config)}", len(config))
        manifest = _encode(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor.as_json(), "layers": []}
        )
        return BaseImage(
            self.reference,
            str(attributes["Id"]),
            Descriptor(OCI_MANIFEST, f"sha256:{sha256(manifest)}", len(manifest)),
            manifest,
            config,
            platform,
        )

    def tree(self, platform: Platform, package: str, *further: str, listing: bool = False) -> PackageTree:  # noqa: ARG002
        return together({each: DockerTree(self._name, each) for each in (package, *further)}, self.reference)

    def blob(self, image: BaseImage, descriptor: Descriptor) -> AbstractContextManager[Iterator[bytes]]:
        raise InputError(
            f"{image.reference} has no blob {descriptor.digest} outside the daemon",
            hint="use --engine docker on this base",
        )


class DockerTree:
    """A `PackageTree` of an image in the daemon."""

    def __init__(self, name: str, package: str) -> None:
        self._name = name
        self._package = package
        with daemon() as client:
            settings = _inspect(client, name).get("Config") or {}
        pairs = (each.partition("=") for each in settings.get("Env") or ())
        self._beside = runs_module(settings, {key: value for key, _, value in pairs})
        response = self._ask()
        if response.get("missing"):
            raise InputError(f"docker:{name} has no Python package {package!r}", hint="check the recipe's 'package'")
        if response.get("info") is None:
            raise InputError(
                f"docker:{name}: no installed distribution lists {package}", hint="editable installs cannot be patched"
            )
        self.root = str(response["root"])
        self.python = str(response["python"])
        self.distribution = Distribution(*response["info"])

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        found = {each["path"]: each for each in self._ask(paths=list(paths))["read"] if each is not None}
        return {path: _base_file(each) for path, each in found.items()}

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        listed: dict[str, EntryKind] = self._ask(folders=[folder])["children"][folder]
        return listed

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        return {
            each["path"]: _base_file(each) for each in self._ask(outside=list(paths))["outside"] if each is not None
        }

    def _ask(
        self, *, paths: list[str] | None = None, folders: list[str] | None = None, outside: list[str] | None = None
    ) -> dict[str, Any]:
        from docker.errors import APIError, ContainerError, ImageNotFound

        arguments = json.dumps([self._package, paths or [], folders or [], outside or [], self._beside])
        with daemon() as client:
            try:
                output = client.containers.run(
                    self._name, ["-c", _SCRIPT, arguments], entrypoint="python3", network_disabled=True, remove=True,
                    read_only=True, stdout=True, stderr=False,
                )  # fmt: skip
                response = json.loads(output)
            except ImageNotFound as error:
                raise _not_found(self._name) from error
            except (APIError, ContainerError, ValueError) as error:
                raise UnreachableError(
                    f"cannot look into docker:{self._name}",
                    details=[("why", str(error)[:500])],
                    hint="the image's own python3 lists the package; see that it starts",
                ) from error
        assert isinstance(response, dict)  # noqa: S101  the script prints an object
        return response


def _inspect(client: Any, name: str) -> dict[str, Any]:
    from docker.errors import ImageNotFound

    try:
        attributes: dict[str, Any] = client.images.get(name).attrs
    except ImageNotFound as error:
        raise _not_found(name) from error
    return attributes


def _not_found(name: str) -> InputError:
    return InputError(f"Docker has no image {name}", hint=f"docker pull {name}, or name the registry's image as base")


def _base_file(found: dict[str, Any]) -> BaseFile:
    data = base64.b64decode(found.get("data", ""))
    return BaseFile(found["path"], found["kind"], found["mode"], data, found["target"])


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
