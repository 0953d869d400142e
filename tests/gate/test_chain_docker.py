"""From an image to its tag: published and signed, pulled, gated in a container, its verdict attached, promoted, verified."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from builder.oci.registry.client import Registry
from tests.support.cli import builder
from tests.support.realstack import overlay_diffs
from tests.support.registry import registry
from tests.support.signing import key_pair
from tests.support.smallwheel import make_project
from tests.support.standin import standin_base
from tests.support.suites import row, write_suite

SMOKE = Path(__file__).parents[2] / "profiles/smoke.yaml"


@pytest.mark.service("dockerd")
def test_an_image_is_gated_in_its_container_and_promoted(tmp_path: Path, docker_engine: str) -> None:
    first, _ = overlay_diffs()
    root = make_project(
        tmp_path / "project", {"20-1.diff": first}, base=f"oci:{standin_base()}", profiles=["smoke"],
        default_profile="smoke", checkpoint={"digest": "c0" * 32}, policies={"production": "gates/production.yaml"},
    )  # fmt: skip
    (root / "profiles/smoke.yaml").write_bytes(SMOKE.read_bytes())
    # The stand-in thinks unless it is told not to, and then says the same to everybody.
    write_suite(
        root, [row(f"r{number}", answer="2+2 je 4.") for number in range(6)], name="sums", answer={"exact": True},
        sampling={"temperature": 0, "max_tokens": 64, "thinking": False},
        metrics={"agreement": {"kind": "equal", "field": "answer"}},
        require=[{"rows": "answered", "min": 6}, {"metric": "agreement", "min": 1.0}],
    )  # fmt: skip
    private, public = key_pair(tmp_path / "team")
    (root / "gates/team.pub").write_bytes(public.read_bytes())
    policy = {
        "name": "production", "suites": [{"name": "sums"}], "profile": "smoke", "gpu": "rtx-5090",
        "signers": [{"key": "gates/team.pub"}], "max_age_days": 7,
    }  # fmt: skip
    (root / "gates/production.yaml").write_text(yaml.safe_dump(policy))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    env = {"DOCKER_HOST": docker_engine}
    with registry(tmp_path / "registry") as host:
        name = f"{host}/team/chain"
        image = builder("publish", "small", "--to", name, "--sign", "--key", str(private), "--json", cwd=root)
        assert image.code == 0, image.err
        digest, reference = image.document["digest"], image.document["reference"]
        pulled = subprocess.run(
            ["docker", "-H", docker_engine, "pull", "-q", reference],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert pulled.returncode == 0, pulled.stderr
        gate = builder(
            "gate", "run", "small", "smoke", "--suite", "sums", "--image", reference, "--gpus", "none", "--network", "host",
            "--model", str(model), "--gpu", "rtx-5090", "--attest", reference, "--key", str(private), "--json", cwd=root, env=env,
        )  # fmt: skip
        assert gate.code == 0, gate.out + gate.err
        (verdict,) = gate.document["verdicts"]
        assert (verdict["result"], verdict["bound"]) == ("PASSED", True)
        order = ("promote", reference, "--to", "production", "--policy", "gates/production.yaml", "--key", str(private))
        done = builder(*order, "--json", cwd=root)
        assert done.code == 0, done.err
        assert Registry(host).manifest("team/chain", "production")[2] == digest
        checked = builder("verify", f"{name}:production", "--signer", "gates/team.pub", "--json", cwd=root)
        assert checked.code == 0, checked.err
        assert {(each["kind"], each["state"]) for each in checked.document["signed"]} == {
            (kind, "verified") for kind in ("provenance", "SBOM", "verdict", "promotion")
        }
        assert checked.document["verdicts"] == {"passed": 1, "warned": 0, "failed": 0, "unreadable": 0}
        # The suite is edited after the verdict: another promotion of the same image is refused.
        suite = root / "gates/sums.yaml"
        suite.write_text(suite.read_text() + "notes: edited\n")
        refused = builder(*order, "--json", cwd=root)
        assert refused.code == 6
        assert [each["reason"] for each in json.loads(refused.out)["error"]["requirements"]] == ["other suite"]
