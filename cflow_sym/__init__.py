"""cflow_sym: from an optimizer's update to checked formulas of its flows, and to readable JAX code.

The names below are imported when they are first used, so that `import cflow_sym` costs nothing. Methods that belong to
a later stage of the corridor (`OptimizerSpec.derive`, `Derivation.compile`, `.to_markdown`) go through the same table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cflow_sym.derivation.derivation import Derivation, DerivationError, Flow, Step, StepError
    from cflow_sym.notation import Total, norm2, symbols
    from cflow_sym.optimizers import UnknownOptimizerError, optimizer
    from cflow_sym.optimizers import names as optimizers
    from cflow_sym.reading.expressions import ExpressionError
    from cflow_sym.reading.files import load_optimizer
    from cflow_sym.reading.tracing import from_jax, from_optax
    from cflow_sym.spec.optimizer import OptimizerSpec
    from cflow_sym.spec.parts import Hyperparameter, SpecError, State, Switch
    from cflow_sym.theory.recipe import derive
    from cflow_sym.writing.codegen import compile
    from cflow_sym.writing.codegen import compile_step as compile_step
    from cflow_sym.writing.committed import write_derivations, write_generated
    from cflow_sym.writing.printed import printed_as_meant as printed_as_meant
    from cflow_sym.writing.render import to_latex as to_latex
    from cflow_sym.writing.render import to_markdown as to_markdown

_HOME = {
    "writing.codegen": ("compile", "compile_step"),
    "writing.committed": ("write_derivations", "write_generated"),
    "derivation.derivation": ("Derivation", "DerivationError", "Flow", "Step", "StepError"),
    "reading.expressions": ("ExpressionError",),
    "reading.files": ("load_optimizer",),
    "notation": ("Total", "norm2", "symbols"),
    "optimizers": ("UnknownOptimizerError", "optimizer"),
    "theory.recipe": ("derive",),
    "writing.printed": ("printed_as_meant",),
    "writing.render": ("to_latex", "to_markdown"),
    "reading.tracing": ("from_jax", "from_optax"),
    "spec.optimizer": ("OptimizerSpec",),
    "spec.parts": ("Hyperparameter", "SpecError", "State", "Switch"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Derivation",
    "DerivationError",
    "ExpressionError",
    "Flow",
    "Hyperparameter",
    "OptimizerSpec",
    "SpecError",
    "State",
    "Step",
    "StepError",
    "Switch",
    "Total",
    "UnknownOptimizerError",
    "compile",
    "derive",
    "from_jax",
    "from_optax",
    "load_optimizer",
    "norm2",
    "optimizer",
    "optimizers",
    "symbols",
    "write_derivations",
    "write_generated",
]


def __getattr__(name: str) -> Any:
    if name == "optimizers":  # a package that can be called
        return importlib.import_module("cflow_sym.optimizers")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"cflow_sym.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'cflow_sym' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
