"""Globals of every test: 64-bit floats, shapes checked at run time, one seed, no display, one core a test process."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SYMPY_CACHE_SIZE", "20000")  # expressions of a whole derivation; SymPy reads it at import
# the compiler's older emitters: the same programs in half the time, which is what most of the tests' time is
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # later versions end at a flag that they no longer know
    _flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"  # a test has one core
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flags}".strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # more time goes to compiling than to running; subprocesses, too
os.environ["CFLOW_CACHE"] = ""  # tests leave nothing in the user's cache
# what tests compile is shared by all processes, and kept for the next time
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache/programs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))  # threads of several processes would wait for each other
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})

import gc

import hypothesis
import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
hypothesis.settings.register_profile("cflow", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("cflow")
_hook = jaxtyping.install_import_hook("cflow_num", "beartype.beartype")

gc.set_threshold(100_000, 20, 100)  # expressions and programs are many and stay: looking through them is a tenth of all


def pytest_collection_finish():
    """Leave what was imported out of the search for garbage."""
    gc.freeze()


MAPPINGS = Path("/proc/self/maps")
MOST_MAPPINGS = 30_000  # Linux allows a process 65,530; every compiled program takes dozens


@pytest.fixture(autouse=True)
def _room_for_compiled_programs():
    """Forget compiled programs before there are so many that the next one cannot be mapped into memory."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        from cflow_num.support.programs import forget_programs

        forget_programs()


@pytest.fixture(autouse=True)
def _compilation(request):
    """Compile as users do where a test says so."""
    as_users = request.node.get_closest_marker("optimized") is not None
    jax.config.update("jax_disable_most_optimizations", not as_users)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
