"""The registry client against Debian's docker-registry: anonymous, basic and token authentication, mounts, tags."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from builder.documents.reference import Reference
from builder.oci.registry.client import Registry
from builder.oci.registry.endpoint import endpoint
from builder.util.errors import UnreachableError
from tests.support.cli import builder
from tests.support.registry import registry, skopeo_copy
from tests.support.services import require
from tests.support.smallwheel import FILES, make_project
from tests.support.standin import tar_of, write_layout
from tests.support.trees import git_diff

ROOT = "usr/local/lib/python3.12/dist-packages"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"{ROOT}/{path}": data for path, data in FILES.items()}
    record = "".join(f"{path},,\n" for path in FILES)
    files |= {
        f"{ROOT}/vllm-0.0.1.dist-info/RECORD": record.encode(),
        f"{ROOT}/vllm-0.0.1.dist-info/METADATA": b"Name: vllm\n",
    }
    layers = [tar_of({"usr/bin/python3": b"#!", "opt/x": b""}), tar_of(files)]
    return write_layout(tmp_path_factory.mktemp("layout") / "base", layers)


def project_of(tmp_path: Path, reference: str) -> Path:
    edited = {**FILES, "vllm/config.py": FILES["vllm/config.py"].replace(b"= 20\n", b"= 2020\n")}
    return make_project(tmp_path / "project", {"one.diff": git_diff(tmp_path / "g", FILES, edited)}, base=reference)


def test_publish_mounts_the_base_and_never_moves_an_immutable_tag(base: Path, tmp_path: Path) -> None:
    with registry(tmp_path / "r") as host:
        skopeo_copy(f"oci:{base}:base", f"docker://{host}/base/image:v1")
        project = project_of(tmp_path, f"{host}/base/image:v1")
        done = builder("publish", "small", "--to", f"{host}/team/out", "--json", cwd=project)
        assert done.code == 0, done.err
        assert done.document["mounted_layers"] == 2
        assert done.document["streamed_bytes"] == 0
        assert done.document["uploaded_bytes"] < 100_000
        again = builder("publish", "small", "--to", f"{host}/team/out", "--move", "--json", cwd=project)
        assert again.document["uploaded_bytes"] == 0
        tag = done.document["tags"][0]
        assert Registry(host).has_manifest("team/out", tag) == done.document["digest"]
        data, media_type, _ = Registry(host).manifest("base/image", "v1")
        for layer in json.loads(data)["layers"]:
            Registry(host).mount("team/out", layer["digest"], "base/image")
        config = json.loads(data)["config"]["digest"]
        Registry(host).mount("team/out", config, "base/image")
        Registry(host).put_manifest("team/out", tag, data, media_type)
        refused = builder("publish", "small", "--to", f"{host}/team/out", cwd=project)
        assert refused.code == 4
        assert "is another image" in refused.err
        with registry(tmp_path / "other") as elsewhere:
            copied = builder("publish", "small", "--to", f"{elsewhere}/team/out", "--json", cwd=project)
            assert copied.code == 0, copied.err
            assert copied.document["streamed_bytes"] > 0
            assert copied.document["digest"] == done.document["digest"]
            skopeo_copy(f"docker://{elsewhere}/team/out@{done.document['digest']}", f"oci:{tmp_path}/pulled:x")


def test_basic_authentication_by_dockers_config(base: Path, tmp_path: Path) -> None:
    require("htpasswd")
    line = subprocess.run(["htpasswd", "-Bbn", "user", "pa:ss"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "htpasswd").write_text(line.strip() + "\n")
    auth = f"auth: {{htpasswd: {{realm: test, path: '{tmp_path}/htpasswd'}}}}\n"
    with registry(tmp_path / "r", auth=auth) as host:
        config = tmp_path / "docker"
        config.mkdir()
        secret = base64.b64encode(b"user:pa:ss").decode()
        (config / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", "--preserve-digests", "--dest-tls-verify=false", "--dest-creds", "user:pa:ss",
             f"oci:{base}:base", f"docker://{host}/base/image:v1"],
            check=True, capture_output=True,
        )  # fmt: skip
        project = project_of(tmp_path, f"{host}/base/image:v1")
        nobody = {"DOCKER_CONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
        refused = builder("lock", "small", cwd=project, env=nobody)
        assert refused.code == 5
        assert "docker login" in refused.err
        known = {"DOCKER_CONFIG": str(config), "HOME": str(tmp_path)}
        done = builder("publish", "small", "--to", f"{host}/team/out", "-v", "--json", cwd=project, env=known)
        assert done.code == 0, done.err
        assert "pa:ss" not in done.out + done.err


class TokenServer(BaseHTTPRequestHandler):
    """A token server with RS256 tokens; it gives what is asked for, and keeps the scopes it saw."""

    key: Path
    certificate: Path
    scopes: list[list[str]]

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        scopes = query.get("scope", [])
        type(self).scopes.append(scopes)
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {
            "iss": "test",
            "sub": "",
            "aud": query["service"][0],
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": "x",
            "access": access,
        }
        der = subprocess.run(
            ["openssl", "x509", "-in", self.certificate, "-outform", "der"], capture_output=True, check=True
        ).stdout
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        text = ".".join(
            base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in (header, claims)
        )
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=text.encode(), capture_output=True, check=True
        ).stdout
        body = json.dumps({"token": f"{text}.{base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def token_server(tmp_path: Path) -> Iterator[str]:
    require("openssl")
    TokenServer.key, TokenServer.certificate, TokenServer.scopes = tmp_path / "key.pem", tmp_path / "cert.pem", []
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", TokenServer.key, "-out", TokenServer.certificate, "-days", "2", "-subj", "/CN=test"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/token"
    server.shutdown()
    server.server_close()


def test_token_authentication_asks_for_just_the_scopes_that_are_needed(
    base: Path, tmp_path: Path, token_server: str
) -> None:
    auth = f"auth: {{token: {{realm: '{token_server}', service: 'test', issuer: 'test', rootcertbundle: '{TokenServer.certificate}'}}}}\n"
    with registry(tmp_path / "r", auth=auth) as host:
        skopeo_copy(f"oci:{base}:base", f"docker://{host}/base/image:v1")
        TokenServer.scopes.clear()
        project = project_of(tmp_path, f"{host}/base/image:v1")
        done = builder("publish", "small", "--to", f"{host}/team/out", "--json", cwd=project)
        assert done.code == 0, done.err
        assert done.document["mounted_layers"] == 2
        asked = [set(scopes) for scopes in TokenServer.scopes]
        assert {"repository:base/image:pull"} in asked
        assert {"repository:team/out:pull,push", "repository:base/image:pull"} in asked
        assert len(asked) <= 4


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint("docker.io").base == "https://registry-1.docker.io"
    assert endpoint("localhost:5000").base == "http://localhost:5000"
    assert endpoint("127.9.9.9:1").base == "http://127.9.9.9:1"
    assert endpoint("registry.example").base == "https://registry.example"
    monkeypatch.setenv("BUILDER_INSECURE_REGISTRIES", "registry.example")
    assert endpoint("registry.example").base == "http://registry.example"
    monkeypatch.setenv("BUILDER_REGISTRY_MIRRORS", "docker.io=https://mirror.example/hub/")
    assert (endpoint("docker.io").base, endpoint("docker.io").prefix) == ("https://mirror.example", "hub/")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vllm/vllm-openai:v0.20.0", "docker.io/vllm/vllm-openai:v0.20.0"),
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        (f"ghcr.io/a/b:t@sha256:{'0' * 64}", f"ghcr.io/a/b:t@sha256:{'0' * 64}"),
    ],
)
def test_references_are_read_as_docker_reads_them(text: str, name: str) -> None:
    assert str(Reference.parse(text)) == name


def test_nobody_there_is_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_HTTP_TIMEOUT", "1")
    with pytest.raises(UnreachableError, match="does not respond"):
        Registry("127.0.0.1:9").manifest("a/b", "latest")
