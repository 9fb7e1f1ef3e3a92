"""Progress: a bar on a terminal, elsewhere nothing or plain lines, every item always."""

import io
import sys

import pytest
import torch
from cases import denoiser

from alphabar import DDIM, sample
from alphabar.samplers.progress import track


def test_a_progress_bar_changes_nothing_and_leaves_stdout_alone(capsys):
    quiet = sample(denoiser(), (1, 3, 8, 8), DDIM(3), seed=1, progress=False)
    assert capsys.readouterr() == ("", "")
    loud = sample(denoiser(), (1, 3, 8, 8), DDIM(3), seed=1, progress=True)
    assert torch.equal(quiet, loud)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shown", [None, True, False])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_shows_on_a_terminal_and_yields_every_item(monkeypatch, is_terminal, shown):
    stderr = io.StringIO()
    stderr.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stderr", stderr)
    assert list(track(iter("abc"), 3, "letters", shown=shown)) == ["a", "b", "c"]
    assert ("letters" in stderr.getvalue()) is (is_terminal and shown is not False)


def test_the_bar_says_what_it_is_told_of_the_newest_item(monkeypatch):
    stderr = io.StringIO()
    stderr.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("COLUMNS", "120")
    list(track([3, 5], 2, "training", told=lambda loss: f"loss {loss / 2}"))
    assert "loss 2.5" in stderr.getvalue()


def test_without_rich_there_is_no_bar_and_every_item(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert list(track("abc", 3, "letters", shown=True)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("shown", "every", "lines"), [(None, 0, 3), (None, 1e9, 0), (None, None, 0), (False, 0, 0)]
)
def test_where_there_is_no_terminal_a_line_says_how_far_it_is(shown, every, lines, capsys):
    assert list(track("abc", 3, "letters", shown=shown, every=every)) == ["a", "b", "c"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    for done, line in enumerate(said, 1):
        assert line.startswith(f"letters: {done} of 3, ")
