"""Rendered files, judged by Compose itself and by the Kubernetes API's published schemas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from builder.documents.lock import Lock, LockedFile, read_lock
from builder.documents.profile import Hardware
from builder.serve.container import Container, stack_key, startup_seconds
from builder.serve.deploy.compose import compose
from builder.serve.deploy.kubernetes import manifests
from builder.serve.deploy.llama_swap import config
from builder.serve.deploy.quadlet import units
from builder.serve.deploy.service import Service, make_service
from tests.support.cli import Ran, builder
from tests.support.services import require

ROOT = Path(__file__).parents[2]
IMAGE = f"registry.example/team/vllm@sha256:{'ab' * 32}"


def deploy(*arguments: str, cwd: Path = ROOT) -> Ran:
    return builder("deploy", *arguments, cwd=cwd)


@pytest.fixture
def lock() -> Lock:
    return read_lock(ROOT / "images/demo.lock.yaml")


def compose_config(text: str, folder: Path) -> Any:
    """What Compose reads in the file: its own `config`, which also checks it against the Compose schema."""
    (folder / "compose.yaml").write_text(text)
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    if not plugin:
        require("docker-compose")
    program = ["docker", "compose"] if plugin else ["docker-compose"]
    done = subprocess.run(
        [*program, "-f", "compose.yaml", "config"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    done = deploy("compose", "demo", "smoke", "envelope-16k", "--image", IMAGE, "--output", "-", "--model", "/models/a $b", "--port", "9000")  # fmt: skip
    assert done.code == 0, done.err
    document = compose_config(done.out, tmp_path)
    assert set(document["services"]) == {"cache-owner", "demo-smoke", "demo-envelope-16k"}
    server = document["services"]["demo-smoke"]
    assert server["image"] == IMAGE
    assert server["command"] == ["smoke"]
    assert server["read_only"] is True
    assert server["user"] == "1000:1000"
    assert server["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    mounts = {each["target"]: each for each in server["volumes"]}
    # Compose prints a literal dollar as two.
    assert mounts["/model"]["source"].replace("$$", "$") == "/models/a $b"
    assert mounts["/model"]["read_only"] is True
    assert "9000" in str(server["ports"])
    assert "9001" in str(document["services"]["demo-envelope-16k"]["ports"])
    assert server["healthcheck"]["test"] == ["CMD", "/opt/builder/serve", "health", "--port", "8000"]
    assert server["depends_on"] == {"cache-owner": {"condition": "service_completed_successfully"}}


def test_a_wrong_file_is_refused_by_the_judge(tmp_path: Path) -> None:
    """The judge can say no: without this, the test above would show little."""
    done = deploy("compose", "demo", "--image", IMAGE, "--output", "-")
    with pytest.raises(AssertionError):
        compose_config(done.out.replace("read_only: true", "read_onely: true"), tmp_path)


def versions() -> list[str]:
    """The oldest schemas that are at hand, the newest, and some between."""
    known = sorted(set(all_versions()), key=lambda version: [int(part) for part in version.split(".")])
    return [*known[:-1:4], known[-1]]


@pytest.mark.parametrize("version", versions())
def test_the_manifests_follow_the_schemas_of_kubernetes(version: str, tmp_path: Path) -> None:
    done = deploy("kubernetes", "demo", "smoke", "envelope-16k", "--image", IMAGE, "--output", str(tmp_path / "k8s"), "--json")  # fmt: skip
    assert done.code == 0, done.err
    files = sorted((tmp_path / "k8s").iterdir())
    assert [path.name for path in files] == [
        f"demo-{profile}.{kind}.yaml"
        for profile in ("envelope-16k", "smoke")
        for kind in ("deployment", "pvc", "service")
    ]
    for path in files:
        document = yaml.safe_load(path.read_text())
        assert done.document["documents"][path.name] == document
        kubernetes_validate.validate(document, version, strict=True)
        broken = {**document, "spec": {**document["spec"], "unknownField": 1}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, version, strict=True)


def deployment(*arguments: str) -> Any:
    done = deploy("kubernetes", "demo", "smoke", "--image", IMAGE, "--output", "-", *arguments)
    assert done.code == 0, done.err
    documents = {each["kind"]: each for each in yaml.safe_load_all(done.out)}
    assert set(documents) == {"Deployment", "Service", "PersistentVolumeClaim"}
    return documents


def test_the_pod_is_pinned_and_confined_and_has_time_to_start(lock: Lock) -> None:
    documents = deployment("--model-claim", "weights")
    spec = documents["Deployment"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["image"] == IMAGE
    assert container["args"] == ["smoke"]
    assert "command" not in container
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["enableServiceLinks"] is False
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= startup_seconds(lock)
    assert documents["Deployment"]["spec"]["progressDeadlineSeconds"] > startup_seconds(lock)
    # Everything that is mounted is there, and everything that is written to has a place that can be written.
    volumes = {each["name"]: each for each in spec["volumes"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert set(mounts) == {"/model", "/cache", "/tmp", "/dev/shm"}
    assert volumes["model"]["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] == documents["PersistentVolumeClaim"]["metadata"]["name"]  # fmt: skip
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"].items() <= labels.items()
    assert documents["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    longer = deployment("--startup-seconds", "3605")["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert longer["startupProbe"]["failureThreshold"] == 361


def test_a_profile_of_the_cpu_build_gets_no_gpu_anywhere(lock: Lock) -> None:
    def made(hardware: Hardware | None) -> Service:
        profile = lock.profiles[0].model_copy(update={"hardware": hardware})
        return make_service(lock.model_copy(update={"profiles": (profile,)}), profile.name, IMAGE)

    assert [made(each).gpus for each in (None, Hardware(gpu="rtx-5090", count=2), Hardware(gpu="cpu"))] == [1, 2, 0]
    service = made(Hardware(gpu="cpu"))
    assert "deploy" not in compose([service], model="/m", port=8000)["services"][service.name]
    pod = manifests([service], model_claim="m", cache_gib=1)[f"{service.name}.deployment.yaml"]["spec"]["template"]
    assert "limits" not in pod["spec"]["containers"][0]["resources"]
    assert "nvidia" not in "".join(units([service], model="/m", port=8000).values())
    assert "--gpus" not in str(config([service], model="/m"))


def test_servers_of_one_machine_have_gpus_of_their_own(lock: Lock, tmp_path: Path) -> None:
    """A count gives each of them the first GPUs: two servers on one have no memory."""
    first = lock.profiles[0].model_copy(update={"hardware": Hardware(gpu="h200", count=2)})
    changed = lock.model_copy(update={"profiles": (first, *lock.profiles[1:])})
    two = [make_service(changed, each.name, IMAGE) for each in changed.profiles[:2]]
    document = compose(two, model="/m", port=8000)
    found = compose_config(yaml.safe_dump(document), tmp_path)["services"]
    devices = [found[each.name]["deploy"]["resources"]["reservations"]["devices"][0] for each in two]
    assert [each.get("device_ids") for each in devices] == [["0", "1"], ["2"]]
    assert not any("count" in each for each in devices)
    texts = units(two, model="/m", port=8000)
    lines = [[line.rpartition("=")[2] for line in texts[f"{each.name}.container"].splitlines() if line.startswith("AddDevice=")] for each in two]  # fmt: skip
    assert lines == [["0", "1"], ["2"]]
    (alone,) = compose(two[:1], model="/m", port=8000)["services"][two[0].name]["deploy"]["resources"]["reservations"]["devices"]  # fmt: skip
    assert (alone["count"], "device_ids" in alone) == (2, False)
    assert "AddDevice=nvidia.com/gpu=all" in units(two[:1], model="/m", port=8000)[f"{two[0].name}.container"]


def test_files_in_the_way_are_kept(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("mine")
    arguments = ("compose", "demo", "--image", IMAGE, "--output", str(tmp_path))
    refused = deploy(*arguments)
    assert refused.code == 2
    assert (tmp_path / "compose.yaml").read_text() == "mine"
    assert deploy(*arguments, "--force").code == 0
    assert "services" in yaml.safe_load((tmp_path / "compose.yaml").read_text())


def test_several_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    output = tmp_path / "new/units"
    arguments = ("quadlet", "demo", "smoke", "envelope-16k", "--model", "/m", "--output", str(output))
    first = deploy(*arguments, "--image", IMAGE, "--json").document["files"]
    before = {name: Path(name).read_bytes() for name in first[:-1]}
    assert len(before) == 2
    Path(first[-1]).unlink()
    Path(first[-1]).mkdir()
    failed = deploy(*arguments, "--image", IMAGE.replace("ab", "cd"), "--force")
    assert (failed.code, "nothing was written" in failed.err) == (2, True), failed.err
    assert {name: Path(name).read_bytes() for name in first[:-1]} == before
    assert len(list(output.iterdir())) == len(first)


def test_a_link_that_leads_nowhere_is_in_the_way_and_a_refusal_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").symlink_to(tmp_path / "none")
    arguments = ("compose", "demo", "--image", IMAGE, "--output")
    assert deploy(*arguments, str(tmp_path)).code == 2
    assert (tmp_path / "compose.yaml").is_symlink()
    limited = f'ulimit -f 0; exec "$@" compose demo --image {IMAGE} --output {tmp_path}/new/folder'
    done = subprocess.run(
        ["bash", "-c", limited, "x", sys.executable, "-m", "builder", "deploy"], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("compose", "demo", "--image", "vllm/vllm-openai:v0.20.0", "--output", "-"), "has no digest"),
        (("kubernetes", "demo", "none", "--image", IMAGE, "--output", "-"), "has no profile"),
        (("compose", "demo", "--image", IMAGE, "--output", "-", "--model", "models"), "relative"),
        (("compose", "demo", "--output", "-"), "--image"),
    ],
)
def test_wrong_input(arguments: tuple[str, ...], why: str) -> None:
    done = deploy(*arguments)
    assert done.code == 2
    assert why in done.err


def test_the_cache_follows_the_stack_and_nothing_else(lock: Lock) -> None:
    key = stack_key(lock, "linux/amd64")
    profiles = lock.model_copy(update={"profiles": lock.profiles[:1], "checkpoint": None, "description": "x"})
    assert stack_key(profiles, "linux/amd64") == key
    assert profiles.inputs != lock.inputs
    platform = lock.base.platforms["linux/amd64"]
    first = platform.files[0]
    assert isinstance(first, LockedFile)
    files = (first.model_copy(update={"after": "0" * 64}), *platform.files[1:])
    changed = lock.base.model_copy(update={"platforms": {"linux/amd64": platform.model_copy(update={"files": files})}})
    assert stack_key(lock.model_copy(update={"base": changed}), "linux/amd64") != key


def test_names_are_labels_whatever_the_recipe_is_called(lock: Lock) -> None:
    for name in ("qwen3.6-27b_fp8", "7b", "x" * 90):
        found = make_service(lock.model_copy(update={"name": name}), "production-ceiling", IMAGE).name
        assert len(found) <= 63
        assert found[0].isalpha()
        assert found.replace("-", "").isalnum()
    one, two = (make_service(lock.model_copy(update={"name": "x" * 90 + end}), "smoke", IMAGE).name for end in "ab")
    assert one != two


def test_run_prints_the_whole_command(tmp_path: Path, lock: Lock) -> None:
    done = builder("run", "demo", "smoke", "--print", "--json", "--model", str(tmp_path), "--port", "9000", "--read-only", "--", "--max-num-seqs", "2", cwd=ROOT)  # fmt: skip
    assert done.code == 0, done.err
    words = done.document["argv"]
    text = json.dumps(words)
    for expected in ("--gpus", "--shm-size", "--health-cmd", "--read-only", "127.0.0.1:9000:8000"):
        assert expected in text
    assert f"demo-cache-{stack_key(lock, 'linux/amd64')}:/cache" in words
    assert words[-3:] == ["smoke", "--max-num-seqs", "2"]
    own = builder("run", "demo", "smoke", "--print", "--json", "--model", str(tmp_path), "--", "--port=9001", cwd=ROOT)
    assert "127.0.0.1:8000:9001" in own.document["argv"]
    for wrong in (["--user", "www-data"], ["--", "--port", "x"]):
        assert builder("run", "demo", "smoke", "--print", "--model", str(tmp_path), *wrong, cwd=ROOT).code == 2


def test_a_profiles_variables_reach_every_manifest_literally(lock: Lock, tmp_path: Path) -> None:
    profile = lock.profiles[0].model_copy(update={"env": {"VLLM_X": "a $(B) $C", "HF_HUB_OFFLINE": "1"}})
    changed = lock.model_copy(update={"profiles": (profile, *lock.profiles[1:])})
    service = make_service(changed, profile.name, IMAGE)
    document = compose([service], model="/m", port=8000)
    server = document["services"][service.name]
    assert server["environment"]["VLLM_X"] == "a $$(B) $$C"
    assert (
        compose_config(yaml.safe_dump(document), tmp_path)["services"][service.name]["environment"]["HF_HUB_OFFLINE"]
        == "1"
    )
    container = manifests([service], model_claim="m", cache_gib=1)[f"{service.name}.deployment.yaml"]
    listed = container["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "VLLM_X", "value": "a $$(B) $C"} in listed
    started = Container(image="i", profile=profile, model=tmp_path, cache="c", environment=(("VLLM_X", "caller"),))
    words = started.argv("docker")
    assert [words[at + 1] for at, word in enumerate(words) if word == "--env"][-2:] == [
        "VLLM_X=caller",
        "HF_HUB_OFFLINE=1",
    ]


def test_run_takes_variables_of_the_caller(tmp_path: Path) -> None:
    arguments = ("run", "demo", "smoke", "--print", "--json", "--model", str(tmp_path))
    done = builder(*arguments, "--env", "A=b c", "--env", "FROM_HERE", cwd=ROOT, env={"FROM_HERE": "x"})
    assert done.code == 0, done.err
    assert {"A=b c", "FROM_HERE=x"} <= set(done.document["argv"])
    for wrong in ("=x", "A B=x", "NOT_IN_THE_ENVIRONMENT"):
        assert builder(*arguments, "--env", wrong, cwd=ROOT).code == 2
