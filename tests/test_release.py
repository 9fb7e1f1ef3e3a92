"""What is released: sources, a pure wheel and a native one, each with the whole package; files that agree."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import alphabar

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WORKFLOWS = ROOT / ".github" / "workflows"
PACKAGE = ROOT / "src" / "alphabar"


def build(target, place, **environment):
    """Build with the backend alone, as a frontend would, and return the file."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(place)]
    there, environment = place.parent / "sources", {**os.environ, **environment}
    done = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = place.iterdir()
    return made


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The source distribution, unpacked: all other builds start from it, as an installation from it does."""
    pytest.importorskip("hatchling")
    place = tmp_path_factory.mktemp("release")
    (place / "sources").symlink_to(ROOT)
    (place / "sdist").mkdir()
    packed = build("sdist", place / "sdist")
    (place / "sources").unlink()
    with tarfile.open(packed) as archive:
        archive.extractall(place, filter="data")
    (place / packed.name.removesuffix(".tar.gz")).rename(place / "sources")
    return place / "sources"


def modules():
    """The names of what must be in every wheel."""
    kinds = (".py", ".html", ".json", ".js", ".css", ".typed")
    found = (path for path in PACKAGE.rglob("*") if path.suffix in kinds or path.name == "py.typed")
    return {path.relative_to(PACKAGE.parent).as_posix() for path in found if "__pycache__" not in path.parts}


def check(wheel, place, kernels):
    """Unpack a wheel, and try what it holds in a process that finds it first."""
    with zipfile.ZipFile(wheel) as archive:
        assert modules() <= set(archive.namelist())
        archive.extractall(place)
    command = [sys.executable, ROOT / ".ci" / "smoke.py", kernels]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(place) in done.stdout


def test_without_a_compiler_the_wheel_is_pure_and_works(sources, tmp_path):
    (tmp_path / "wheel").mkdir()
    shutil.copytree(sources, tmp_path / "sources")
    wheel = build("wheel", tmp_path / "wheel", CXX="no-such-compiler")
    assert wheel.name == f"alphabar-{alphabar.__version__}-py3-none-any.whl"
    check(wheel, tmp_path / "there", "pure")


@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler is here")
def test_with_a_compiler_the_wheel_has_the_kernels_and_says_for_which_python(sources, tmp_path):
    (tmp_path / "wheel").mkdir()
    shutil.copytree(sources, tmp_path / "sources")
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nexec c++ "$@" -O0\n')  # most of its time goes into making code fast
    compiler.chmod(0o755)
    wheel = build("wheel", tmp_path / "wheel", CXX=str(compiler))
    assert f"-cp{sys.version_info.major}{sys.version_info.minor}-" in wheel.name
    check(wheel, tmp_path / "there", "native")


def test_the_sources_hold_the_examples_and_nothing_that_was_built(sources):
    names = {path.relative_to(sources).as_posix() for path in sources.rglob("*")}
    assert {"LICENSE", "README.md", "build_native.py", "examples/ddpm_from_scratch.ipynb"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc", ".pyd"))]


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == alphabar.__version__
    assert citation["license"] == PYPROJECT["project"]["license"]


def test_the_workflow_runs_the_check_of_every_change_and_the_oldest_versions_that_are_promised():
    jobs = yaml.safe_load((WORKFLOWS / "test.yml").read_text("utf-8"))["jobs"]
    assert ".ci/run" in [step.get("run") for step in jobs["whole"]["steps"]]
    rows = jobs["versions"]["strategy"]["matrix"]["include"]
    oldest = rows[0]
    assert f">={oldest['python']}" == PYPROJECT["project"]["requires-python"]
    (torch,) = (line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch"))
    assert oldest["torch"] == torch.replace(">=", "==") + ".*"
    systems = {row["system"] for row in rows} | {jobs["windows"]["runs-on"]}
    assert {name.partition("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_what_is_meant_for_the_forge_is_yaml_with_a_name(path):
    content = yaml.safe_load(path.read_text("utf-8"))
    assert content.get("name") or path.name == "config.yml"
