"""The registry of samplers: complete, and what command line and errors list is what it holds."""

import inspect
import re

import pytest
from cases import check_error

from alphabar import NoiseSchedule, samplers
from alphabar.cli import main
from alphabar.errors import ConfigError
from alphabar.samplers import REGISTRY, SOLVERS, sampler_names
from alphabar.schedule import FAMILIES, SPACINGS

LINEAR = NoiseSchedule.linear()
every_entry = pytest.mark.parametrize("name", REGISTRY)


def test_every_exported_sampler_is_registered_and_the_other_way_round():
    exported = {
        thing
        for thing in map(vars(samplers).get, samplers.__all__)
        if inspect.isclass(thing) and hasattr(thing, "plan")
    } - {samplers.Plan, samplers.Sampler, samplers.Stepwise, samplers.FittedTable}
    kinds = [entry.kind for entry in REGISTRY.values()]
    assert exported == set(kinds)
    assert len(kinds) == len(exported)


@every_entry
@pytest.mark.parametrize("evaluations", [1, 5, 6, 10])
def test_a_sampler_asks_the_network_no_more_often_than_it_may(name, evaluations):
    if name == "fitted" and evaluations < 5:
        check_error(lambda: REGISTRY[name].with_evaluations(evaluations), ConfigError, "5 … 50")
        return
    count = len(REGISTRY[name].with_evaluations(evaluations).plan(LINEAR))
    at_least = {"heun": evaluations - 1, "dpm2": evaluations - 1, "pndm": evaluations - 1}
    assert at_least.get(name, evaluations) <= count
    assert count <= evaluations or (name, evaluations) == ("pndm", 1)


@every_entry
def test_what_an_entry_says_of_memory_and_noise_is_what_the_rows_show(name):
    entry = REGISTRY[name]
    plan = entry.with_evaluations(10).plan(LINEAR)
    assert (plan.memory > 1) == entry.remembers
    assert not (entry.variants and any(row.is_random for row in plan.rows))


@every_entry
def test_a_spacing_goes_where_the_sampler_takes_one(name):
    entry = REGISTRY[name]
    if entry.spaced:
        assert entry.with_evaluations(9, "leading").spacing == "leading"
    else:
        check_error(lambda: entry.with_evaluations(9, "leading"), ConfigError, "leave spacing out")


@every_entry
@pytest.mark.parametrize("evaluations", [0, -1, 2.5, True])
def test_evaluations_are_a_whole_number_of_at_least_1(name, evaluations):
    check_error(lambda: REGISTRY[name].with_evaluations(evaluations), ConfigError, "evaluations is")


def test_labels_of_what_is_ranked_stand_once():
    assert len(SOLVERS) == sum(len(entry.variants) for entry in REGISTRY.values())


def help_of(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return re.sub(r"[│\s]+", " ", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["sample", "edit"])
def test_help_lists_exactly_the_registered_samplers_and_the_spacings(command, capsys):
    text = help_of(command, capsys)
    (listed,) = re.findall(r"--sampler STR (.*?)\. \(default", text)
    assert listed == sampler_names()
    assert re.findall(r"\w+", re.sub(r" \(.*?\)", "", listed)) == list(REGISTRY)
    assert f"Which t it visits; by default as suits it. (one of {', '.join(SPACINGS)})" in text


def test_help_of_inpainting_lists_those_that_remember_nothing(capsys):
    (listed,) = re.findall(r"--sampler STR (.*?): one that remembers no", help_of("inpaint", capsys))
    assert listed.split(", ") == [name for name, entry in REGISTRY.items() if not entry.remembers]


@pytest.mark.parametrize("command", ["noise", "schedule", "samplers"])
def test_help_lists_exactly_the_families_of_schedules(command, capsys):
    assert f"(one of {', '.join(FAMILIES)}; default: linear" in help_of(command, capsys)
