"""The structure: rooms import downwards, nothing imports in circles, and moving code about changes no image."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import grimp
import pytest

from builder.oci import artifact
from tests.support.cli import builder

ROOT = Path(__file__).parents[1]
DEMO = "sha256:4bce3bcdc196f149bc5a359169e4712e3ccaf2ca4c831a89d4e1fdae9a4656b2"
"""The demo's manifest. It changes with the entrypoint or the record, and with nothing else."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import between our modules, those inside functions and for type checking included."""
    return grimp.build_graph("builder", cache_dir=None)


def _circles(edges: dict[str, set[str]]) -> Iterator[str]:
    for start in edges:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for following in edges.get(waiting.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        if start in seen:
            yield start


def _inside(module: str, among: Iterable[str]) -> str | None:
    return next((each for each in among if module == each or module.startswith(f"{each}.")), None)


def test_no_module_imports_itself_in_a_circle(graph: grimp.ImportGraph) -> None:
    edges = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert sorted(_circles(edges)) == []


def test_no_package_imports_itself_in_a_circle(graph: grimp.ImportGraph) -> None:
    for package in sorted(graph.modules):
        children = graph.find_children(package)
        edges: dict[str, set[str]] = defaultdict(set)
        for module in graph.modules:
            importer = _inside(module, children)
            for imported in graph.find_modules_directly_imported_by(module):
                target = _inside(imported, children)
                if importer and target and importer != target:
                    edges[importer].add(target)
        assert sorted(_circles(edges)) == [], package


def _late(tree: ast.AST, *, inside: bool = False) -> Iterator[ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if inside and isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "builder":
            yield node
        yield from _late(node, inside=inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_only_commands_import_our_own_modules_late() -> None:
    """A late import of our own hides a circle. Commands have them so that `builder --help` loads no more than it shows."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "builder").rglob("*.py"))
        if "commands" not in path.parts
        for node in _late(ast.parse(path.read_text()))
    ]
    assert found == []


@pytest.mark.wheels
def test_the_demo_has_the_digest_that_it_had(tmp_path: Path) -> None:
    done = builder("build", "demo", "--engine", "oci", "--output", f"oci:{tmp_path / 'demo'}", "--json", cwd=ROOT)
    assert done.code == 0, done.err
    assert json.loads(done.out)["digest"] == DEMO


def test_published_types_are_what_they_were() -> None:
    """Registries keep documents under these types: a rename of a module must not rename them."""
    assert {artifact.SBOM, artifact.PROVENANCE, artifact.LOCK, artifact.SOURCES, artifact.VERDICT, artifact.BUNDLE} == {
        "application/vnd.cyclonedx+json",
        "application/vnd.in-toto+json",
        "application/vnd.overlay-image-builder.lock.v1+yaml",
        "application/vnd.overlay-image-builder.sources.v1.tar",
        "application/vnd.in-toto.test-result+json",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
    }
