"""A derivation as a readable JAX module that fulfils the protocol of `interface.py`.

Every function is a short column of assignments in the theory's notation with the shape of each at the right
margin. The generated text depends on the spec and the derivation only; a test regenerates the committed
modules.
"""

from __future__ import annotations

import builtins
import linecache
import sys
from types import ModuleType

from cflow_sym.derivation.derivation import Derivation
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.writing.module_writer import ModuleWriter, step_module
from cflow_sym.writing.step_writer import StepWriter, source_hash


def generate(d: Derivation) -> str:
    """Return the source text of the module for a derivation.

    >>> import cflow_sym as cs
    >>> "jnp.sqrt(nu) / eta" in generate(cs.derive("scalar_rmsprop"))
    True
    """
    writer = ModuleWriter(d)
    functions = writer.functions()
    return "\n".join([writer.header("".join(functions)), *functions]) + "\n"


def compile(d: Derivation) -> ModuleType:
    """Execute the generated source in a module, the same one for the same source; tracebacks show its lines.

    >>> import cflow_sym as cs
    >>> compile(cs.derive("gradient_descent")).NAME
    'gradient_descent'
    """
    return _module(d.spec, generate(d), f"{d.spec.module_name}_{source_hash(d.spec, d.order)}")


def compile_step(spec: OptimizerSpec) -> ModuleType:
    """Return the optimizer's own step, `initial_state`, `update_state` and `update_weights`, without any flow.

    It works for optimizers that no flow is derived for, such as those with momentum.

    >>> import cflow_sym as cs
    >>> compile_step(cs.optimizer("gradient_descent")).NAME
    'gradient_descent'
    """
    spec = spec.with_options()
    source = "\n".join(step_module(StepWriter(spec))) + "\n"
    return _module(spec, source, f"{spec.module_name}_step_{source_hash(spec, 'step')}")


def _module(spec: OptimizerSpec, source: str, name: str) -> ModuleType:
    name = f"cflow_compiled_{name}"
    filename = f"<{name}>"
    known = sys.modules.get(name)
    same = known is not None and getattr(known, "_SOURCE", None) == source
    if known is not None and same and getattr(known, "REFERENCE", None) is spec.reference:
        return known  # compiled programs are found by their module
    module = ModuleType(name, doc=f"Compiled from {spec.title}.")
    module.__file__ = filename
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(builtins.compile(source, filename, "exec"), module.__dict__)
    module.__dict__["_SOURCE"] = source
    if spec.reference is not None:
        module.__dict__["REFERENCE"] = spec.reference
    sys.modules[name] = module
    return module
