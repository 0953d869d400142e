"""The SBOM is what the CycloneDX project's own library makes of it: read, validated and written again, to the same bytes."""

from __future__ import annotations

import json
import warnings
from typing import Any

import yaml
from cyclonedx.model.bom import Bom
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.documents.lock import Lock, parse_lock
from builder.oci.types import Descriptor
from builder.release.evidence.sbom import make_sbom
from tests.support.shipped import ROOT

SUBJECT = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "ab" * 32, 500)
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)

names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True)
versions = st.sampled_from(["0.20.0", "2.9.1+cu130", "1!2.0", "0.0.0.dev1", "3", "1.0rc1"])
texts = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
files = st.sampled_from(
    ["a.diff", "50%.diff", "50%25.diff", "with blank.diff", "é#1.diff", "[x]'{y}.diff", "a:b?c.diff"]
)
digests = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")


@st.composite
def overlays(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": draw(texts), "diff": f"overlays/{draw(files)}", "digest": draw(digests),
        "package": draw(st.sampled_from([(), ("vllm",), ("other",), ("other", "vllm")])),
    }  # fmt: skip
    if draw(st.booleans()):
        number = draw(st.integers(1, 99_999))
        made["url"] = draw(st.sampled_from(["https://github.com/vllm-project/vllm", "http://h:80/a b/[c]", "h/50%/é"]))
        made["url"] += f"/pull/{number}"
        made["state"] = draw(st.sampled_from(["open", "merged", "closed"]))
    return {**made, **draw(st.fixed_dictionaries({}, optional={"title": texts, "author": texts, "why": texts}))}


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    """The demo's lock, with other overlays, distributions and files."""
    document = yaml.safe_load((ROOT / "images/demo.lock.yaml").read_bytes())
    platform = document["base"]["platforms"]["linux/amd64"]
    own = platform["distribution"]
    platform["files"] = []
    platform["packages"] = [f"{name}=={draw(versions)}" for name in draw(st.lists(names, max_size=4, unique=True))]
    platform["installed"] = [
        {
            "id": name, "name": name, "version": draw(versions), "file": "a-1-py3-none-any.whl", "sha256": draw(digests),
            "dist_info": "a-1.dist-info", "record": draw(digests), "native": draw(st.booleans()),
            **draw(st.fixed_dictionaries({}, optional={"replaces": texts})),
        }
        for name in draw(st.lists(st.from_regex(r"[a-z]{2,5}", fullmatch=True), max_size=2, unique=True))
    ]  # fmt: skip
    platform["added"] = [
        {"source": "s", "path": f"etc/{name}", "sha256": draw(digests), "size": 1}
        for name in draw(
            st.lists(texts.filter(lambda text: "/" not in text and text.strip(".")), max_size=2, unique=True)
        )
    ]
    document["overlays"] = draw(
        st.lists(overlays(), min_size=1, max_size=4, unique_by=(lambda each: each["id"], lambda each: each["digest"]))
    )
    if any("other" in each["package"] for each in document["overlays"]):
        other = {**own, "name": draw(names), "version": draw(versions), "dist_info": "other-1.dist-info"}
        platform["further"] = [{"package": "other", "distribution": draw(st.sampled_from([own, other]))}]
    return Lock.model_validate(document)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(locks())
def test_an_sbom_is_what_the_library_writes_of_it(lock: Lock) -> None:
    data = make_sbom(lock, "linux/amd64", SUBJECT)
    assert VALIDATOR.validate_str(data.decode()) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = Bom.from_json(json.loads(data))  # type: ignore[attr-defined]
        assert JsonV1Dot6(read).output_as_string(indent=1).encode() + b"\n" == data
    assert read.validate()


def test_a_percent_in_the_name_of_a_diff_is_escaped() -> None:
    text = (ROOT / "images/demo.lock.yaml").read_text()
    lock = parse_lock(text.replace("diff: overlays/demo/collect-env.diff", "diff: overlays/50%.diff").encode(), "lock")
    document = json.loads(make_sbom(lock, "linux/amd64", SUBJECT))
    patches = document["components"][0]["pedigree"]["patches"]
    assert "overlays/50%25.diff" in [each["diff"]["url"] for each in patches]
