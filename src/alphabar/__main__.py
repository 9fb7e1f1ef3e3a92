"""``python -m alphabar``: the command line, in the form that ``accelerate launch -m`` needs."""

import sys

from alphabar.cli import main

if __name__ == "__main__":
    sys.exit(main())
