"""Wheels of all members: built offline, installed non-editable, complete without the source tree."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEMBERS = [
    ".",
    "./kernels",
    "./lint",
    *(str(one.parent.relative_to(ROOT)) for one in sorted((ROOT / "plugins").glob("*/pyproject.toml"))),
]
BUILD = """
import importlib, os, pathlib, sys, tomllib
os.chdir(sys.argv[1])
backend = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["build-system"]["build-backend"]
sys.argv = sys.argv[:1] + [sys.argv[2]]
importlib.import_module(backend).build_wheel(sys.argv[1])
"""
# Run in the new environment from "/": nothing of the source tree is in reach.
LOOK = """
import importlib, json, pathlib, re, tomllib
from importlib import resources
from hecate_core.corpus.text import topics
from hecate_core.registry import registry

contract = re.compile(r"^```CONTRACT\\n(.*?)^```$", re.MULTILINE | re.DOTALL)
states = {str(plugin.origin): str(plugin.state) for plugin in registry().plugins()}
lacking, linked, places = [], [], set()
for plugin in registry().plugins():
    for one in plugin.components:
        package = one.target.split(":")[0].split(".")[0]
        folder = pathlib.Path(str(resources.files(package)))
        places.add(str(folder))
        texts = {path: path.read_text() for path in folder.rglob("*.md")}
        linked += [str(path) for path in texts if path.is_symlink()]
        found = [tomllib.loads(block) for text in texts.values() for block in contract.findall(text)]
        if one.kind in ("pair", "task", "sink"):
            continue
        if (one.kind, one.name) not in {(each["kind"], each["name"]) for each in found}:
            lacking.append(f"{one.kind} {one.name}")
core = pathlib.Path(str(resources.files("hecate_core")))
prose = [name for name in ("README.md", "protocols.md", "forms/affine.md") if not (core / "specs" / name).is_file()]
print(json.dumps({"states": states, "lacking": lacking + prose, "linked": linked, "places": sorted(places),
    "corpus": len(topics().train), "demo": (core / "examples" / "demo.toml").is_file()}))
"""


def environment(**more: str) -> dict[str, str]:
    """The present environment without ways back into the source tree."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **more}


def said(*command: str | Path) -> str:
    """What a command prints when it is run from "/"; its complaint is the failure's text."""
    run = subprocess.run(
        list(map(str, command)), cwd="/", capture_output=True, text=True, env=environment(), check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def build(member: Path, out: Path) -> None:
    """The member's own build backend, called as a front end calls it, without isolation and offline."""
    out.mkdir(exist_ok=True)
    said(sys.executable, "-c", BUILD, member, out)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Built from a copy of the workspace, because setuptools leaves its traces in the tree it builds from."""
    copy, out = tmp_path_factory.mktemp("workspace"), tmp_path_factory.mktemp("wheels")
    skip = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "tests", ".*")
    for name in ("hecate_core", "kernels", "lint", "plugins", "specs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for member in MEMBERS:
        build(copy / member, out)
    return sorted(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh environment: our wheels, and links to the other packages of this one."""
    home = tmp_path_factory.mktemp("environment")
    said(sys.executable, "-m", "venv", "--without-pip", home)
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for one in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not one.name.lower().startswith(("hecate", "__editable__")) and one.suffix != ".pth":
            (site / one.name).symlink_to(one)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--no-compile")
    said(*pip, "--quiet", *wheels)
    return python


def test_a_wheel_of_every_member_installs_hecate_names_alone(wheels: list[Path]) -> None:
    assert len(wheels) == len(MEMBERS)
    for wheel in wheels:
        names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
        assert {name for name in names if not name.startswith("hecate_")} == set(), wheel.name


def test_a_wheel_carries_every_tracked_file_of_its_package(wheels: list[Path]) -> None:
    """Sources, specifications, kernels, data: what stands in the package folder stands in the wheel."""
    carried = {name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    packages = [ROOT / "hecate_core", *ROOT.glob("*/src/hecate_*"), *ROOT.glob("plugins/*/src/hecate_*")]
    wanted = {
        str(path.relative_to(package.parent))
        for package in packages
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert sorted(wanted - carried) == []


def test_installed_wheels_have_plugins_specs_and_data(installed: Path) -> None:
    seen = json.loads(said(installed, "-c", LOOK))
    assert {origin: state for origin, state in seen["states"].items() if state != "ok"} == {}
    assert len(seen["states"]) >= 4
    assert seen["lacking"] == []
    assert seen["linked"] == [], "a wheel holds files, not links"
    assert all(place.startswith(str(installed.parents[1])) for place in seen["places"])
    assert seen["corpus"] > 300_000
    assert seen["demo"]


def test_the_installed_command_lists_the_plugins(installed: Path) -> None:
    plugins = json.loads(said(installed, "-m", "hecate_core.cli", "plugins", "--json"))["plugins"]
    assert [one["distribution"] for one in plugins if one["state"] != "ok"] == []
    assert len(plugins) >= 4


def test_a_cu_file_of_a_member_is_in_its_wheel(tmp_path: Path) -> None:
    member = tmp_path / "acme"
    package = member / "src" / "acme_rules"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "rule.cu").write_text("// a kernel\n")
    (member / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["uv_build>=0.9,<0.10"]\nbuild-backend = "uv_build"\n'
        '[project]\nname = "acme-rules"\nversion = "1.0"\n'
    )
    build(member, tmp_path / "out")
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert "acme_rules/rule.cu" in zipfile.ZipFile(wheel).namelist()
