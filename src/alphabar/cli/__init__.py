"""The command line: ``alphabar noise | schedule | samplers | train | sample | edit | … | demo``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from alphabar.errors import MissingExtraError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after one line on stderr that says what would be right.

    141 where nobody reads on.

    Args:
        arguments: by default those of this process, which is then the command's own and keeps its memory.
    """
    try:
        from alphabar.cli._main import run
        from alphabar.cli._memory import keep_memory
    except MissingExtraError as missing:
        return _complain(str(missing))
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] == "alphabar":
            raise  # an error of this package, not of how it was installed
        return _complain(f"the command line needs {missing.name}: pip install 'alphabar[train]'")
    if arguments is None:
        keep_memory()
    try:
        try:
            return run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who read it, such as head, has enough; at exit nothing may be written either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as of a program that SIGPIPE ends


def _complain(text: str) -> int:
    print(f"alphabar: {text}", file=sys.stderr)
    return 2
