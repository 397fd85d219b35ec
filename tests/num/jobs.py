"""What workers do in the tests of executors; imported by fresh processes, so nothing slow here."""

import os
import signal
import sys
import time
from pathlib import Path


def double(job):
    """Do as the job says: ("kill", marker) dies, the first time only where a marker is named."""
    kind, value = job
    if kind == "kill" and not (value and Path(value).exists()):
        if value:
            Path(value).touch()
        time.sleep(0.2)  # so that it takes others along
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise ValueError(value)
    if kind == "exit":
        sys.exit(value)
    if kind == "slow":
        time.sleep(0.4)
    return 2 * value if kind in ("double", "slow") else kind
