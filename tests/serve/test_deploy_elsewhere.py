"""Files for Helm, KServe, podman and llama-swap: against what these publish, or the facts of it that matter.

BUILDER_TEST_SCHEMAS names a folder with the published schemas, where somebody has them: `production-stack.json`
(helm/values.schema.json), `llama-swap.json` (config-schema.json) and `kserve.yaml` (the CRD of LLMInferenceService). Podman's
own generator judges the units where podman 5 is installed, or BUILDER_TEST_QUADLET names it.
"""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from builder.documents.lock import read_lock
from builder.documents.profile import Profile
from builder.serve.deploy.quadlet import units
from builder.serve.deploy.service import make_service
from builder.util.errors import InputError
from tests.serve.test_deploy import IMAGE
from tests.support.cli import Ran, builder

ROOT = Path(__file__).parents[2]
SCHEMAS = os.environ.get("BUILDER_TEST_SCHEMAS")
QUADLET = os.environ.get("BUILDER_TEST_QUADLET") or shutil.which("quadlet", path="/usr/libexec/podman:/usr/lib/podman")


def deploy(kind: str, *arguments: str, profiles: tuple[str, ...] = ("smoke", "envelope-16k")) -> Ran:
    return builder("deploy", kind, "demo", *profiles, "--image", IMAGE, *arguments, cwd=ROOT)


def documents(kind: str, folder: Path, *arguments: str) -> Any:
    done = deploy(kind, "--output", str(folder), "--json", *arguments)
    assert done.code == 0, done.err
    return done.document["documents"]


def published(name: str) -> Any:
    if SCHEMAS is None:
        pytest.skip("the published schemas are not here: BUILDER_TEST_SCHEMAS=DIR")
    return yaml.safe_load((Path(SCHEMAS) / name).read_text())


def test_helm_gets_the_profiles_flags_a_pinned_image_and_its_own_check(tmp_path: Path) -> None:
    values = documents("helm", tmp_path, "--model-claim", "weights", "--cache-claim", "kernels")["values.yaml"]
    spec = values["servingEngineSpec"]
    model = spec["modelSpec"][0]
    assert f"{model['repository']}:{model['tag']}" == IMAGE
    assert model["modelURL"] == "/model"
    flags = model["vllmConfig"]["extraArgs"]
    assert flags == builder("profile", "show", "smoke", "--json", cwd=ROOT).document["argv"]
    assert model["initContainer"] == {"name": "verify", "image": IMAGE, "command": ["/opt/builder/serve", "verify"]}
    assert {"name": "HOME", "value": "/cache"} in model["env"]
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"]
        for each in model["extraVolumes"]
        if "persistentVolumeClaim" in each
    }
    assert claims == {"model": "weights", "cache": "kernels"}
    assert {each["name"] for each in model["extraVolumeMounts"]} == {each["name"] for each in model["extraVolumes"]}
    folders = [
        mount["subPath"] for each in spec["modelSpec"] for mount in each["extraVolumeMounts"] if "subPath" in mount
    ]
    assert len(set(folders)) == 2
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert spec[probe]["httpGet"] == {"path": "/health", "port": 8000}
    assert spec["startupProbe"]["periodSeconds"] * spec["startupProbe"]["failureThreshold"] >= 600


def test_helms_published_schema_takes_the_values(tmp_path: Path) -> None:
    schema = published("production-stack.json")
    jsonschema.Draft7Validator(schema).validate(documents("helm", tmp_path)["values.yaml"])


def test_kserve_gets_a_pod_that_kubernetes_takes_and_the_checkpoint_by_uri(tmp_path: Path) -> None:
    found = documents("kserve", tmp_path, "--model-claim", "weights")
    assert set(found) == {
        f"demo-{name}.{kind}.yaml" for name in ("smoke", "envelope-16k") for kind in ("pvc", "llminferenceservice")
    }
    service = found["demo-smoke.llminferenceservice.yaml"]
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1alpha2", "LLMInferenceService")
    assert service["spec"]["model"] == {"uri": "pvc://weights", "name": "demo"}
    pod = service["spec"]["template"]
    container = pod["containers"][0]
    assert (container["name"], container["image"], container["command"], container["args"]) == (
        "main",
        IMAGE,
        ["/opt/builder/serve"],
        ["smoke"],
    )
    assert {"name": "BUILDER_MODEL", "value": "/mnt/models"} in container["env"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}, "1.33", strict=True
    )
    other = documents("kserve", tmp_path / "oci", "--model-oci", "registry.example/weights@sha256:" + "cd" * 32)
    assert (
        other["demo-smoke.llminferenceservice.yaml"]["spec"]["model"]["uri"]
        == "oci://registry.example/weights@sha256:" + "cd" * 32
    )


def _strict(schema: Any) -> None:
    """Refuse keys that a structural schema does not name, as the API server drops them."""
    if isinstance(schema, dict):
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("anyOf", None)
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _strict(each)


def test_kserves_published_schema_takes_the_services(tmp_path: Path) -> None:
    versions = {each["name"]: each for each in published("kserve.yaml")["spec"]["versions"]}
    schema = versions["v1alpha2"]["schema"]["openAPIV3Schema"]
    _strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    service = documents("kserve", tmp_path)["demo-smoke.llminferenceservice.yaml"]
    jsonschema.Draft7Validator(schema).validate(service)
    service["spec"]["template"]["containers"][0]["imagge"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(service)


def _unit(text: str) -> configparser.RawConfigParser:
    class Repeated(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if key in self and isinstance(value, list) and isinstance(self[key], list):
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    parser = configparser.RawConfigParser(dict_type=Repeated, strict=False, delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_quadlet_gets_a_confined_container_with_a_probe_and_time_to_start(tmp_path: Path) -> None:
    found = documents("quadlet", tmp_path, "--model", "/models/m", "--port", "9000")
    volume = next(name for name in found if name.endswith(".volume"))
    assert set(found) == {volume, "demo-smoke.container", "demo-envelope-16k.container"}
    unit = _unit(found["demo-smoke.container"])
    container = dict(unit["Container"])
    assert container["Image"] == IMAGE
    assert container["Exec"] == "smoke"
    # Two servers, so each has a GPU of its own.
    assert container["AddDevice"] == "nvidia.com/gpu=0"
    assert container["PublishPort"] == "127.0.0.1:9000:8000"
    assert container["Volume"].splitlines() == ["/models/m:/model:ro", f"{volume}:/cache:U"]
    assert (container["ReadOnly"], container["DropCapability"], container["NoNewPrivileges"]) == ("true", "all", "true")
    assert container["HealthCmd"] == "/opt/builder/serve health --port 8000"
    assert int(unit["Service"]["TimeoutStartSec"]) > int(container["HealthStartPeriod"].removesuffix("s"))
    assert "127.0.0.1:9001:8000" in found["demo-envelope-16k.container"]


@pytest.mark.skipif(QUADLET is None, reason="podman 5's generator is not installed: BUILDER_TEST_QUADLET=FILE")
def test_podmans_own_generator_takes_the_units(tmp_path: Path) -> None:
    lock = read_lock(ROOT / "images/demo.lock.yaml")
    odd = Profile.model_validate(
        {"name": "smoke", "flags": {"dtype": "auto"}, "env": {"VLLM_ODD": 'a "b" $HOME 100% \\n'}}
    )
    found = units(
        [make_service(lock.model_copy(update={"profiles": (odd,)}), "smoke", IMAGE)], model="/models/m", port=8000
    )
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [str(QUADLET), "-dryrun"], env={"QUADLET_UNIT_DIRS": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    line = next(each for each in done.stdout.splitlines() if each.startswith("ExecStart=/usr/bin/podman run"))
    # As systemd reads the line: two dollars are one, and so are two percent signs; newer podman writes a space as \x20.
    read = line.removeprefix("ExecStart=").replace("\\x20", " ")
    words = [each.replace("$$", "$").replace("%%", "%") for each in shlex.split(read)]
    assert 'VLLM_ODD=a "b" $HOME 100% \\n' in words
    assert words[-2:] == [IMAGE, "smoke"]


@pytest.mark.parametrize("model", ["/models/a b", "/models/a:b", "models"])
def test_quadlet_refuses_folders_that_it_cannot_name(model: str, tmp_path: Path) -> None:
    done = deploy("quadlet", "--model", model, "--output", str(tmp_path / "out"))
    assert done.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_llama_swap_gets_a_command_for_each_profile(engine: str, tmp_path: Path) -> None:
    found = documents("llama-swap", tmp_path, "--model", "/models/a b", "--engine", engine)["config.yaml"]
    assert set(found["models"]) == {"demo-smoke", "demo-envelope-16k"}
    model = found["models"]["demo-smoke"]
    words = shlex.split(model["cmd"].replace("${PORT}", "5800"))
    assert words[:2] == [engine, "run"]
    assert words[-2:] == [IMAGE, "smoke"]
    assert "127.0.0.1:5800:8000" in words
    assert "/models/a b:/model:ro" in words
    assert ("nvidia.com/gpu=all" in words) is (engine == "podman")
    assert words[words.index("--name") + 1] == shlex.split(model["cmdStop"])[-1]
    assert (model["checkEndpoint"], model["proxy"], model["useModelName"]) == (
        "/health",
        "http://127.0.0.1:${PORT}",
        "/model",
    )
    assert found["healthCheckTimeout"] >= 600
    if SCHEMAS:
        jsonschema.Draft7Validator(published("llama-swap.json")).validate(found)


def test_what_llama_swap_would_read_as_a_macro_is_refused() -> None:
    from builder.serve.deploy.llama_swap import config

    lock = read_lock(ROOT / "images/demo.lock.yaml")
    odd = Profile.model_validate({"name": "smoke", "flags": {"dtype": "auto"}, "env": {"VLLM_ODD": "${PORT}"}})
    with pytest.raises(InputError, match="macro"):
        config([make_service(lock.model_copy(update={"profiles": (odd,)}), "smoke", IMAGE)], model="/m")


def test_podman_takes_gpus_by_cdi(tmp_path: Path) -> None:
    def run(*arguments: str) -> Ran:
        return builder(
            "run",
            "demo",
            "smoke",
            "--engine",
            "podman",
            "--print",
            "--json",
            "--model",
            str(tmp_path),
            *arguments,
            cwd=ROOT,
        )

    words = json.dumps(run().document["argv"])
    assert words.startswith('["podman", "run"')
    assert '"--device", "nvidia.com/gpu=all"' in words
    assert "--gpus" not in words
    assert [each for each in run("--gpus", "device=0,1").document["argv"] if "nvidia" in each] == [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=1",
    ]
    assert "nvidia" not in json.dumps(run("--gpus", "none").document["argv"])
    assert run("--gpus", "2").code == 2
