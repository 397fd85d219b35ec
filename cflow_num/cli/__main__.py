"""The command `cflow`, also `python -m cflow_num.cli`: an interrupt has a reason even while the command is imported."""

import os
import sys


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        from .main import main as command

        code = command()
    except KeyboardInterrupt:
        print("cflow: interrupted before the command began: nothing was done", file=sys.stderr)
        code = 2
    from ..support.interrupts import came

    if came():  # what a library left half done could crash while the process ends in order
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
