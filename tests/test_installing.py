"""Every extra alone has what it promises: a process that can import nothing else shows it."""

import os
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Run before anything else: packages of other distributions than these are not there.
ALONE = """
import sys
from importlib.machinery import PathFinder
class Without:
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else PathFinder.find_spec(name, path, target)
    find_distributions = PathFinder.find_distributions
    invalidate_caches = PathFinder.invalidate_caches
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(requirements):
    """All distributions that come with these requirements, as the installed ones say."""
    from packaging.requirements import Requirement

    found, open_ = set(), [Requirement(line) for line in requirements]
    while open_:
        requirement = open_.pop()
        extras = requirement.extras or {""}
        name = plain(requirement.name)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if (name, *sorted(extras)) in found or name == "alphabar":
            continue
        found.add((name, *sorted(extras)))
        for line in metadata.requires(name) or ():
            below = Requirement(line)
            if not below.marker or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                below.marker = None
                open_.append(below)
    return {name for name, *_ in found}


OWNERS = cache(metadata.packages_distributions)


def run(extra, program, *arguments):
    there = needed([*PROJECT["dependencies"], *(EXTRAS[extra] if extra else ())])
    blocked = {
        module
        for module, owners in OWNERS().items()
        if not {plain(owner) for owner in owners} & (there | {"alphabar"})
    } - sys.stdlib_module_names
    code = ALONE.format(blocked=sorted(blocked)) + program
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )


CORE = """
import torch, alphabar
from alphabar import DDIM, Denoiser, NoiseSchedule, sample
denoiser = Denoiser(lambda x, t: x, NoiseSchedule.cosine(), "v_prediction")
assert sample(denoiser, (1, 3, 8, 8), DDIM(3), seed=0, progress=False).isfinite().all()
"""
DROP_IN = """
import alphabar.diffusers as ours
for name in ours.__all__:
    made = getattr(ours, name)
    if name.endswith("Scheduler") and name != "FittedScheduler":  # which needs tables
        made().set_timesteps(4)
"""
TRAINING = """
from alphabar.training import TrainConfig, train
for step in train(TrainConfig(steps=1, batch_size=4, channels=(8,), precision="float32")):
    step.snapshot()
import alphabar.convert, alphabar.evaluation, alphabar.cli.demo
"""
EXPLORER = """
from alphabar.explorer import server
from alphabar.explorer.answers import Page
from alphabar.explorer.pictures import Album
from alphabar.explorer.reverse import Run
from alphabar.training import TrainConfig
server.application(Page(Album(), Run(None, TrainConfig())))
"""
COMMAND = """
import runpy
sys.argv = ["alphabar", *sys.argv[1:]]
runpy.run_module("alphabar", run_name="__main__")
"""


def test_the_explore_extra_alone_imports_what_it_promises():
    done = run("explore", CORE + EXPLORER)
    assert done.returncode == 0, done.stderr


def test_the_extras_are_those_that_are_tested_and_that_of_developers():
    untested = {"dev", "evaluate", "export"}  # torch-fidelity's torchvision takes gigabytes
    assert set(EXTRAS) == {"train", "diffusers", "explore", "docs"} | untested


@pytest.mark.parametrize(("extra", "program"), [("", CORE), ("diffusers", CORE + DROP_IN)])
def test_an_extra_alone_imports_what_it_promises_and_its_command_line_is_one_line(extra, program):
    done = run(extra, program + COMMAND, "info")
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"alphabar: the command line needs \w+: pip install 'alphabar\[train\]'\n", done.stderr
    )


def test_the_train_extra_alone_imports_what_it_promises_and_has_the_command_line():
    done = run("train", CORE + TRAINING + COMMAND, "info")
    assert done.returncode == 0, done.stderr
    assert "CPU kernels" in done.stdout


def test_an_error_of_the_package_itself_is_not_taken_for_a_missing_one(monkeypatch):
    from alphabar.cli import main

    monkeypatch.setitem(sys.modules, "alphabar.cli._main", None)
    with pytest.raises(ModuleNotFoundError):
        main([])
