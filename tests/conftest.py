"""Globals of every test: 64-bit floats, shapes checked at run time, one seed, no display."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import jaxtyping

jax.config.update("jax_enable_x64", True)
hypothesis.settings.register_profile("cflow", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("cflow")
_hook = jaxtyping.install_import_hook("cflow_num", "beartype.beartype")
