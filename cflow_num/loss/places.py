"""Where in the user's code an operation of a traced program was written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.extend as jex

_PACKAGES = "site-packages"
_FRAMES = 30
_NORMALIZATION = (
    *("flax/linen/normalization", "flax/nnx/nn/normalization"),
    *("equinox/nn/_normalisation", "equinox/nn/_batch_norm", "equinox/nn/_spectral_norm"),
)
_KINKED_RULES = ("relu", "relu6")  # of JAX's own functions with derivatives of their own all others are smooth

RULES = ("custom_jvp_call", "custom_vjp_call")  # operations whose derivatives are given


def place(equation: Any) -> str:
    """Return `file.py:line (function)` of the innermost line outside installed packages; empty where none is known."""
    found = jex.source_info_util.summarize(equation.source_info, num_frames=_FRAMES).splitlines()
    own = [frame for frame in found if frame.startswith("/") and _PACKAGES not in frame]
    if not own:
        return ""
    path, _, function = own[-1].partition(" ")
    file, line, *_ = path.rsplit("/", 1)[-1].split(":")
    scope = str(equation.source_info.name_stack)
    return f"{file}:{line} {function}" + (f" in {scope}" if scope else "")


def in_normalization(equation: Any) -> bool:
    """Whether a library's normalization layer wrote it: its `max(0, variance)` meets no kink."""
    return any(name in frame for frame in _frames(equation) for name in _NORMALIZATION)


def is_trusted_rule(equation: Any) -> bool:
    """Whether a derivative of its own, or none, was set by JAX itself, in a function that is smooth."""
    if equation.primitive.name == "custom_jvp_call":
        return is_jax_own(equation) and _function(equation, "func_name") not in _KINKED_RULES
    for frame in _frames(equation):  # innermost first: JAX's own functions above the first line of others
        if "/jax/" not in frame:
            return False
        if any(part in frame for part in ("/jax/_src/nn/", "/jax/_src/ops/", "/jax/_src/scipy/", "/jax/_src/numpy/")):
            return True
    return False


def is_jax_own(equation: Any) -> bool:
    """Whether the function of an operation with given derivatives is one of JAX's own."""
    return "/jax/_src/" in _function(equation, "func_src_info").replace("\\", "/")


def _function(equation: Any, what: str) -> str:
    called = equation.params.get("call_jaxpr") or equation.params.get("fun_jaxpr")
    return str(getattr(getattr(getattr(called, "jaxpr", called), "debug_info", None), what, ""))


def _frames(equation: Any) -> Iterator[str]:
    """Return the files of the lines that led to an operation, innermost first."""
    traceback = equation.source_info.traceback
    if traceback is None:
        return iter(())
    return (code.co_filename.replace("\\", "/") for code in traceback.raw_frames()[0])
