"""vLLM in several places, through links, in odd forms: the one that the image's python3 imports, or a refusal that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.bases import (
    PYTHON,
    ROOT,
    SOURCE,
    Item,
    Made,
    Outcome,
    build,
    built_layer,
    folder,
    layer,
    package,
    recipe,
    symlink,
)  # fmt: skip

VENV = "opt/venv/lib/python3.12/site-packages"
CONDA = "opt/conda/lib/python3.11/site-packages"
USER = "root/.local/lib/python3.12/site-packages"
UV = "root/.local/share/uv/python/cpython-3.12.7-linux-x86_64-gnu"
VENV_PROGRAM = [
    Item("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.12.3\n"),
    symlink("opt/venv/bin/python3", "/usr/bin/python3.12"), symlink("opt/venv/lib64", "lib"),
]  # fmt: skip
CONDA_PROGRAM = [
    Item("opt/conda/bin/python3.11", b"\x7fELF", mode=0o755), symlink("opt/conda/bin/python3", "python3.11"),
]  # fmt: skip
SYSTEM = "PATH=/usr/local/bin:/usr/bin"
IN_VENV = "PATH=/opt/venv/bin:/usr/local/bin:/usr/bin"
OLD = SOURCE.replace(b"x1 = 1\n", b"x1 = 100\n")


def built(root: Path, capsys: Any, layers: list[list[Item]], *env: str, **config: str) -> Outcome:
    made = Made(recipe(root) / "base")
    made.write(
        made.image([layer(*each) for each in layers], env=env, config=lambda found: found["config"].update(config))
    )
    return build(root, capsys)


# What is in the image, its environment, and where the layer must write (None: refused, with these words).
CHOSEN: dict[str, tuple[list[list[Item]], list[str], str]] = {
    "system alone": ([PYTHON, package()], [SYSTEM], ROOT),
    "venv alone": ([[*PYTHON, *VENV_PROGRAM], package(VENV)], [IN_VENV], VENV),
    "venv before system": ([[*PYTHON, *VENV_PROGRAM], package(source=OLD), package(VENV)], [IN_VENV], VENV),
    "venv below system": ([[*PYTHON, *VENV_PROGRAM], package(VENV), package(source=OLD)], [IN_VENV], VENV),
    "venv that PATH does not name": ([[*PYTHON, *VENV_PROGRAM], package(VENV, source=OLD), package()], [SYSTEM], ROOT),
    "no PATH at all": ([[*PYTHON, *VENV_PROGRAM], package(VENV, source=OLD), package()], [], ROOT),
    "conda": ([[*PYTHON, *CONDA_PROGRAM], package(source=OLD), package(CONDA)], ["PATH=/opt/conda/bin:/usr/bin"], CONDA),
    "conda behind": ([[*PYTHON, *CONDA_PROGRAM], package(), package(CONDA, source=OLD)], ["PATH=/usr/bin:/opt/conda/bin"], ROOT),
    "PYTHONPATH": (
        [PYTHON, package(source=OLD), package("srv/lib/python3.12/site-packages")],
        [SYSTEM, "PYTHONPATH=:/nowhere:/srv/lib/python3.12/site-packages/"], "srv/lib/python3.12/site-packages",
    ),
    "PYTHONPATH to another name": (
        [PYTHON, package(source=OLD), package("srv/python3.12/mine")], [SYSTEM, "PYTHONPATH=/srv/python3.12/mine"],
        "srv/python3.12/mine",
    ),
    "PYTHONPATH through a link": (
        [[*PYTHON, symlink("srv/now", "v2")], package("srv/v1/site-packages", source=OLD), package("srv/v2/site-packages")],
        [SYSTEM, "PYTHONPATH=/srv/now/site-packages"], "srv/v2/site-packages",
    ),
    "user site": ([PYTHON, package(source=OLD), package(USER)], [SYSTEM], USER),
    "user site that is switched off": (
        [PYTHON, package(), package(USER, source=OLD)], [SYSTEM, "PYTHONNOUSERSITE=1"], ROOT,
    ),
    "user site elsewhere": (
        [PYTHON, package(source=OLD), package(USER, source=OLD), package("srv/u/lib/python3.12/site-packages")],
        [SYSTEM, "PYTHONUSERBASE=/srv/u"], "srv/u/lib/python3.12/site-packages",
    ),
    "venv of copies": (
        [[*PYTHON, Item("opt/venv/pyvenv.cfg", b"home = /usr/bin\nversion = 3.12.3\n"),
          Item("opt/venv/bin/python3", b"\x7fELF", mode=0o755)], package(source=OLD), package(VENV)], [IN_VENV], VENV,
    ),
    "venv that sees the system, in both": (
        [[*PYTHON, *VENV_PROGRAM[1:],
          Item("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = true\n")], package(source=OLD), package(VENV)],
        [IN_VENV], VENV,
    ),
    "an environment of conda": (
        [[*PYTHON, *CONDA_PROGRAM, Item("opt/conda/envs/v/bin/python3.12", b"", mode=0o755),
          symlink("opt/conda/envs/v/bin/python3", "python3.12")], package(CONDA, source=OLD),
         package("opt/conda/envs/v/lib/python3.12/site-packages")],
        ["PATH=/opt/conda/envs/v/bin:/opt/conda/bin:/usr/bin"], "opt/conda/envs/v/lib/python3.12/site-packages",
    ),
    "a Python built from source beside Debian's": (
        [[*PYTHON, Item("usr/local/bin/python3.12", b"", mode=0o755), symlink("usr/local/bin/python3", "python3.12")],
         package(source=OLD), package("usr/local/lib/python3.12/site-packages")], [SYSTEM], "usr/local/lib/python3.12/site-packages",
    ),
    "user site of another user": (
        [PYTHON, package(), package("home/app/.local/lib/python3.12/site-packages", source=OLD)], [SYSTEM], ROOT,
    ),
    "venv hides the user site": ([[*PYTHON, *VENV_PROGRAM], package(USER, source=OLD), package(VENV)], [IN_VENV], VENV),
    "venv that sees the system": (
        [[*PYTHON, *VENV_PROGRAM[1:],
          Item("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = true\n")], package()], [IN_VENV], ROOT,
    ),
    "uv venv": (
        [[*PYTHON, Item(f"{UV}/bin/python3.12", b"\x7fELF", mode=0o755), symlink("opt/venv/bin/python", f"/{UV}/bin/python3.12"),
          symlink("opt/venv/bin/python3", "python"),
          Item("opt/venv/pyvenv.cfg", f"home = /{UV}/bin\nuv = 0.5.1\nversion_info = 3.12.7\n".encode())],
         package(source=OLD), package(VENV)], [IN_VENV], VENV,
    ),
    "two Pythons": (
        [[*PYTHON, Item("usr/bin/python3.10", b"", mode=0o755)], package("usr/local/lib/python3.10/dist-packages", source=OLD),
         package()], [SYSTEM], ROOT,
    ),
    "alternatives": (
        [[folder("usr"), folder("usr/bin"), folder("opt"), Item("usr/bin/python3.12", b"", mode=0o755), Item("usr/bin/python3.10", b""),
          symlink("usr/bin/python3", "/etc/alternatives/python3"), symlink("etc/alternatives/python3", "/usr/bin/python3.12")],
         package("usr/local/lib/python3.10/dist-packages", source=OLD), package()], [SYSTEM], ROOT,
    ),
    "removed from one place": (
        [[*PYTHON, *VENV_PROGRAM], package(VENV, source=OLD), package(), [folder(VENV), Item(f"{VENV}/.wh.vllm"),
         Item(f"{VENV}/.wh.vllm-0.0.1.dist-info")]], [IN_VENV], ROOT,
    ),
    "the folder was moved behind a link": (
        [PYTHON, package(source=OLD), [*package("opt/py/dist-packages"), symlink("usr/local/lib/python3.12", "/opt/py")]],
        [SYSTEM], "opt/py/dist-packages",
    ),
    "the site folder is a link to another name": (
        [[*PYTHON, symlink("usr/local/lib/python3.12/dist-packages", "/opt/libraries")], package("opt/libraries")],
        [SYSTEM], "opt/libraries",
    ),
    "relative and out of the root": (
        [[*PYTHON, symlink("usr/local/lib/python3.12/dist-packages", "../../../../../../../opt/l")], package("opt/l")],
        [SYSTEM], "opt/l",
    ),
    "PYTHONPATH through a link to another name": (
        [[*PYTHON, symlink("srv/now", "v2")], package("srv/v1", source=OLD), package("srv/v2")],
        [SYSTEM, "PYTHONPATH=/srv/now"], "srv/v2",
    ),
    "merged usr": (
        [[folder("usr"), folder("opt"), symlink("bin", "usr/bin"), symlink("lib", "usr/lib"), Item("usr/bin/python3.12", b"", mode=0o755),
          symlink("usr/bin/python3", "python3.12")], package()], ["PATH=/bin"], ROOT,
    ),
    "only the first of PATH counts": (
        [[*PYTHON, *VENV_PROGRAM, *CONDA_PROGRAM], package(CONDA, source=OLD), package(VENV)],
        ["PATH=/nowhere:/opt/venv/bin:/opt/conda/bin:/usr/bin"], VENV,
    ),
    "a python3 that cannot be executed": (
        [[*PYTHON, *VENV_PROGRAM, Item("opt/x/bin/python3", b"")], package("opt/x/lib/python3.12/site-packages", source=OLD),
         package(VENV)], ["PATH=/opt/x/bin:/opt/venv/bin"], VENV,
    ),
    "a .pth behind the package": (
        [[*PYTHON, Item(f"{ROOT}/more.pth", b"/src\n"), Item("src/vllm/__init__.py", b"")], package()], [SYSTEM], ROOT,
    ),
    "a .pth that leads to the package": (
        [[*PYTHON, *VENV_PROGRAM, Item(f"{VENV}/more.pth", f"# text\nimport os\n/{ROOT}\n".encode())], package()], [IN_VENV], ROOT,
    ),
    "a working folder that does not count": (
        [PYTHON, package(), [Item("work/vllm/__init__.py", b"")]], [SYSTEM], ROOT,
    ),
    "an editable one that is not imported": (
        [[*PYTHON, *VENV_PROGRAM, Item(f"{VENV}/__editable__.vllm-0.0.1.pth", b"/src\n")], package()], [SYSTEM], ROOT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHOSEN)
def test_the_place_that_python3_imports_is_patched(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers, env, wanted = CHOSEN[kind]
    outcome = built(tmp_path, capsys, layers, *env)
    assert outcome.code == 0, outcome.message
    found = built_layer(tmp_path, outcome)
    data = found[f"{wanted}/vllm/a.py"]
    assert isinstance(data, bytes)
    assert data.startswith(b"x1 = 1\n")
    assert [name for name in found if name.endswith("a.py")] == [f"{wanted}/vllm/a.py"]


EDITABLE = [
    Item(f"{ROOT}/__editable__.vllm-0.0.1.pth", b"/workspace/vllm\n"), *package(without=["vllm/__init__.py", "vllm/a.py", "vllm/b.py"]),
    Item("workspace/vllm/vllm/__init__.py", b""),
]  # fmt: skip
REFUSED: dict[str, tuple[list[list[Item]], list[str], list[str]]] = {
    "editable": ([PYTHON, EDITABLE], [SYSTEM], ["editable"]),
    "a namespace": ([PYTHON, package(without=["vllm/__init__.py"])], [SYSTEM], ["without an __init__.py", f"/{ROOT}/vllm"]),
    "editable by direct_url": (
        [PYTHON, [*package(without=["vllm/__init__.py", "vllm/a.py", "vllm/b.py"]),
                  Item(f"{ROOT}/vllm-0.0.1.dist-info/direct_url.json", b'{"dir_info": {"editable": true}, "url": "file:///src"}')]],
        [SYSTEM], ["editable"],
    ),
    "editable before a wheel": (
        [[*PYTHON, *VENV_PROGRAM, Item(f"{VENV}/__editable___vllm_0_0_1_finder.py", b"")], package()],
        [IN_VENV.replace("/opt/venv/bin", "/opt/venv/bin"), "VIRTUAL_ENV=/opt/venv"], ["editable", f"/{ROOT}"],
    ),
    "develop": ([PYTHON, [Item(f"{ROOT}/vllm.egg-link", b"/src\n.")]], [SYSTEM], ["editable"]),
    "egg file": ([PYTHON, [Item(f"{ROOT}/vllm-0.0.1-py3.12.egg", b"PK")]], [SYSTEM], ["egg"]),
    "egg folder": ([PYTHON, [Item(f"{ROOT}/vllm-0.0.1-py3.12.egg/vllm/__init__.py", b"")]], [SYSTEM], ["egg"]),
    "package is a link": (
        [PYTHON, [*package(without=["vllm/__init__.py", "vllm/a.py", "vllm/b.py"]), symlink(f"{ROOT}/vllm", "/src/vllm")]],
        [SYSTEM], ["link to /src/vllm"],
    ),
    "without a distribution": (
        [PYTHON, [Item(f"{ROOT}/vllm/__init__.py", b""), Item(f"{ROOT}/vllm/a.py", SOURCE)]], [SYSTEM], ["without a distribution"],
    ),
    "two distributions": (
        [PYTHON, package(), package(info="vllm-0.0.2.dist-info", without=["vllm/__init__.py", "vllm/a.py", "vllm/b.py"])],
        [SYSTEM], ["vllm-0.0.1.dist-info", "vllm-0.0.2.dist-info"],
    ),
    "PYTHONPATH to a source tree": (
        [PYTHON, package(), [Item("src/vllm/__init__.py", b""), Item("src/vllm/a.py", SOURCE)]], [SYSTEM, "PYTHONPATH=/src"],
        ["/src", f"/{ROOT}"],
    ),
    "a zip file in PYTHONPATH": (
        [PYTHON, package(), [Item("opt/vllm.zip", b"PK")]], [SYSTEM, "PYTHONPATH=/opt/vllm.zip"], ["zip", "/opt/vllm.zip"],
    ),
    "a .pth before the package": (
        [[*PYTHON, *VENV_PROGRAM[1:], Item("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = true\n"),
          Item(f"{VENV}/mine.pth", b"/src\n"), Item("src/vllm/__init__.py", b"")], package()], [IN_VENV], ["/src", f"/{ROOT}"],
    ),
    "a zip file by .pth": (
        [[*PYTHON, *VENV_PROGRAM[1:], Item("opt/venv/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = true\n"),
          Item(f"{VENV}/mine.pth", b"/src.zip\n"), Item("src.zip", b"PK")], package()], [IN_VENV], ["/src.zip", f"/{ROOT}"],
    ),
    "two places, neither imported": (
        [[folder("usr"), folder("opt")], package(VENV), package(CONDA)], [SYSTEM], [f"/{VENV}", f"/{CONDA}", "none in PATH"],
    ),
    "VIRTUAL_ENV contradicts PATH": (
        [[*PYTHON, *VENV_PROGRAM], package(VENV), package()], [SYSTEM, "VIRTUAL_ENV=/opt/venv"],
        [f"/{VENV}", f"/{ROOT}", "VIRTUAL_ENV"],
    ),
    "written below a link of a lower layer": (
        [[*PYTHON, folder("usr/local"), symlink("usr/local/lib", "/opt/lib")], package()], [SYSTEM], ["link", "usr/local/lib"],
    ),
    "written below a link of its own": (
        [PYTHON, [symlink("usr/local/lib", "/opt/lib"), *package()]], [SYSTEM], ["link", "usr/local/lib"],
    ),
    "hidden by a later link": (
        [PYTHON, package(), [symlink(ROOT, "/opt/site")]], [SYSTEM], ["no Python package"],
    ),
    "hidden by a later file": ([PYTHON, package(), [Item("usr/local/lib/python3.12", b"")]], [SYSTEM], ["no Python package"]),
    "below a file": ([[*PYTHON, Item("usr/local/lib", b"")], package()], [SYSTEM], ["usr/local/lib"]),
    "a circle of links": (
        [PYTHON, package(), [symlink("usr/local/lib/python3.12", "python3.13"), symlink("usr/local/lib/python3.13", "python3.12")]],
        [SYSTEM], ["no Python package"],
    ),
    "all removed": ([PYTHON, package(), [Item(".wh..wh..opq"), *PYTHON]], [SYSTEM], ["no Python package"]),
    "opt is a link": ([[*[each for each in PYTHON if each.name != "opt"], symlink("opt", "/usr/opt")], package()], [SYSTEM], ["/opt"]),
    "RECORD is a link": (
        [PYTHON, [*package(without=["vllm-0.0.1.dist-info/RECORD"]), symlink(f"{ROOT}/vllm-0.0.1.dist-info/RECORD", "x")]],
        [SYSTEM], ["RECORD"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_patched_is_refused_with_its_reason(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers, env, words = REFUSED[kind]
    outcome = built(tmp_path, capsys, layers, *env)
    assert outcome.code == 2, (outcome.code, outcome.message)
    for word in words:
        assert word in outcome.message
    assert not (tmp_path / "dist").exists()


def test_a_package_folder_behind_a_link_is_not_written_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that the diff changes is below a link of another layer: the diff does not apply."""
    layers = [[*PYTHON, *package()], [symlink(f"{ROOT}/vllm/a.py", "/etc/passwd")]]
    assert built(tmp_path, capsys, layers, SYSTEM).code == 3


def test_a_module_is_imported_from_the_working_folder_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(recipe(tmp_path) / "base")
    layers = [layer(*PYTHON), layer(*package()), layer(Item("work/vllm/__init__.py", b""))]
    start = {"Entrypoint": ["python3", "-m", "vllm.entrypoints.openai.api_server"], "WorkingDir": "/work"}
    made.write(made.image(layers, config=lambda found: found["config"].update(start)))
    outcome = build(tmp_path, capsys)
    assert outcome.code == 2
    assert "/work" in outcome.message
