"""Progress: a bar on a terminal, nothing elsewhere, every item always."""

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


def test_without_rich_there_is_no_bar_and_every_item(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert list(track("abc", 3, "letters", shown=True)) == ["a", "b", "c"]
