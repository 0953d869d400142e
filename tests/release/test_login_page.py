"""A login page of the network at a registry's address: every command that asks a registry ends with exit code 5 and says so."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import builder
from tests.support.loopback import serving
from tests.support.published import patched_project, small_base
from tests.support.suites import row, write_suite

COMMANDS = (
    "verify {image}",
    "verify {image} --recipe small",
    "publish small --to {host}/a/b",
    "attest sbom.json --image {image}",
    "verdict show {image}",
    "promote {image} --to production --require smoke --allow-unsigned --dry-run",
    "lock far",
)


def test_no_command_takes_a_login_page_for_an_image(tmp_path: Path) -> None:
    env = {"DOCKER_CONFIG": str(tmp_path), "BUILDER_CACHE_DIR": str(tmp_path / "cache")}
    project = patched_project(tmp_path / "project", f"oci:{small_base(tmp_path / 'base')}")
    write_suite(project, [row("one", answer=1)], name="smoke")
    assert builder("lock", "small", cwd=project, env=env).code == 0
    (project / "sbom.json").write_text('{"bomFormat": "CycloneDX"}')
    with serving(lambda handler: handler.say(200, b"<title>Log in</title>", Content_Type="text/html")) as server:
        host = server.url.removeprefix("http://")
        recipe = (project / "images/small.yaml").read_text().replace("name: small", "name: far")
        base = next(line for line in recipe.splitlines() if line.startswith("base: "))
        (project / "images/far.yaml").write_text(recipe.replace(base, f"base: {host}/a/b:v1"))
        for command in COMMANDS:
            done = builder(*command.format(host=host, image=f"{host}/a/b:v1").split(), cwd=project, env=env)
            assert done.code == 5, (command, done.out, done.err)
            assert f"error: {host} does not respond as a registry" in done.err, (command, done.err)
            assert "200 with text/html" in done.err
