"""The command line: ``alphabar noise | schedule | samplers | train | sample | edit | … | demo``.

Every command is a dataclass: its fields are the arguments, and calling it does the work. A wrong argument is
one line on stderr and exit code 2.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import tyro
from tyro.conf import FlagCreatePairsOff

from alphabar.cli._arguments import note, notes, tell_notes
from alphabar.cli.averaging import Average
from alphabar.cli.convert import Convert
from alphabar.cli.data import Data
from alphabar.cli.encoding import Encode
from alphabar.cli.evaluating import Evaluate
from alphabar.cli.explore import Explore
from alphabar.cli.exporting import Export
from alphabar.cli.fitting import Fit
from alphabar.cli.hub import Push
from alphabar.cli.likelihood import Likelihood
from alphabar.cli.report import Report
from alphabar.cli.sampling import Edit, Inpaint, Interpolate, Sample
from alphabar.cli.showing import Demo, Info, Noise, Samplers, Schedule
from alphabar.cli.sweeping import Sweep
from alphabar.cli.training import Train, with_run
from alphabar.errors import AlphabarError

__all__ = ["COMMANDS", "run"]

NO_MEMORY = re.compile("allocate memory|out of memory|not enough memory|overflow|too large", re.IGNORECASE)

COMMANDS: dict[str, Callable[..., Callable[[], None]]] = {
    "noise": Noise,
    "schedule": Schedule,
    "samplers": Samplers,
    "data": Data,
    "encode": Encode,
    "train": Train,
    "report": Report,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "fit": Fit,
    "likelihood": Likelihood,
    "sample": Sample,
    "edit": Edit,
    "inpaint": Inpaint,
    "interpolate": Interpolate,
    "average": Average,
    "convert": Convert,
    "export": Export,
    "push": Push,
    "demo": Demo,
    "explore": Explore,
    "info": Info,
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after one line on stderr that says what would be right."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = _parse(given)
    notes.clear()
    try:
        if isinstance(command, Train):
            command = with_run(command, lambda default: _parse_again(given, default))
        with warnings.catch_warnings():
            warnings.showwarning = note  # type: ignore[assignment]
            command()
    except BrokenPipeError:
        raise
    except (AlphabarError, OSError) as error:
        return _complain(str(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        return _complain(f"not enough memory: {error}")
    except RuntimeError as error:
        if not NO_MEMORY.search(str(error)):
            raise
        return _complain(f"not enough memory: {str(error).splitlines()[0]}")
    except KeyboardInterrupt:
        return _complain("interrupted; what was there before is as it was")
    tell_notes()
    return 0


def _parse(arguments: list[str]) -> Callable[[], None]:
    return _parsed(  # type: ignore[no-any-return]
        lambda: tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="alphabar",
            description="Denoising diffusion models from one sequence of numbers.",
            args=arguments,
            config=(FlagCreatePairsOff,),
        )
    )


def _parse_again(arguments: list[str], default: Train) -> Train:
    """Parse the arguments of ``train`` with the settings of a run for those that are not given."""
    return _parsed(  # type: ignore[no-any-return]
        lambda: tyro.cli(
            *(Train,),
            prog="alphabar train",
            args=arguments[1:],
            default=default,
            config=(FlagCreatePairsOff,),
        )
    )


def _parsed(parse: Callable[[], Any]) -> Any:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return parse()
    except SystemExit as stop:
        if stop.code:
            _complain(_one_line(errors.getvalue()))
        raise


def _one_line(box: str) -> str:
    lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}|^\||\|$", " ", line).strip() for line in box.splitlines()[1:]]
    text = " ".join(line for line in lines if line)
    return re.sub(r"\s*For full helptext, (run|see):?", "; see", text)


def _complain(text: str) -> int:
    print(f"alphabar: {text}".replace("\n", " "), file=sys.stderr)
    return 2
