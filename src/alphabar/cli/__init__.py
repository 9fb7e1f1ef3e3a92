"""The command line: ``alphabar noise | schedule | samplers | train | sample | edit | … | demo``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after one line on stderr that says what would be right."""
    try:
        from alphabar.cli.main import main as run
    except ImportError as missing:
        print(
            f"alphabar: the command line needs {missing.name}: pip install 'alphabar[train]'", file=sys.stderr
        )
        return 2
    return run(arguments)
