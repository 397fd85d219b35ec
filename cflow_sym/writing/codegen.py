"""A derivation as a readable JAX module that fulfils the protocol of `interface.py`.

Every function is a short column of assignments in the theory's notation with the shape of each at the right
margin. The generated text depends on the spec and the derivation only; a test regenerates the committed
modules.
"""

from __future__ import annotations

import builtins
import linecache
import sys
from collections.abc import Iterable, Mapping
from itertools import chain, combinations
from pathlib import Path
from types import ModuleType

from cflow_sym.derivation.derivation import Derivation
from cflow_sym.optimizers import names as optimizer_names
from cflow_sym.optimizers import optimizer
from cflow_sym.spec.optimizer import OptimizerSpec
from cflow_sym.theory.recipe import derive
from cflow_sym.writing.module_writer import ModuleWriter, step_module
from cflow_sym.writing.step_writer import StepWriter, source_hash


def generate(d: Derivation) -> str:
    """Return the source text of the module for a derivation.

    >>> "jnp.sqrt(nu) / eta" in generate(derive("scalar_rmsprop"))
    True
    """
    writer = ModuleWriter(d)
    functions = writer.functions()
    return "\n".join([writer.header("".join(functions)), *functions]) + "\n"


def compile(d: Derivation) -> ModuleType:
    """Execute the generated source in a module, the same one for the same source; tracebacks show its lines.

    >>> compile(derive("gradient_descent")).NAME
    'gradient_descent'
    """
    return _module(d.spec, generate(d), f"{d.spec.module_name}_{source_hash(d.spec, d.order)}")


def compile_step(spec: OptimizerSpec) -> ModuleType:
    """Return the optimizer's own step, `initial_state`, `update_state` and `update_weights`, without any flow.

    It works for optimizers that no flow is derived for, such as those with momentum.

    >>> compile_step(optimizer("gradient_descent")).NAME
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


def variants(name: str | OptimizerSpec) -> list[OptimizerSpec]:
    """Return the specs of the modules of one optimizer: all combinations of switches, options on.

    A spec with active switches is the only variant.

    >>> [spec.module_name for spec in variants("gradient_descent")]
    ['gradient_descent']
    """
    spec = (optimizer(name) if isinstance(name, str) else name).with_options()
    if spec.active_switches:
        return [spec]
    switches = [s.name for s in spec.switches]
    subsets = chain.from_iterable(combinations(switches, k) for k in range(len(switches) + 1))
    return [spec.configure(**dict.fromkeys(subset, True)) for subset in subsets]


def write_generated(
    folder: str | Path | None = None, names: Iterable[str | OptimizerSpec] | None = None, *, check: bool = False
) -> list[Path]:
    """Write the modules of optimizers (names or specs), return their paths; with `check`, only return stale ones.

    `folder` defaults to `cflow_sym/generated`, `names` to all built-in optimizers.

    >>> write_generated(names=["gradient_descent"], check=True)
    []
    """
    folder = Path(__file__).parents[1] / "generated" if folder is None else Path(folder)
    texts = {}
    for name in optimizer_names() if names is None else names:
        for spec in variants(name):
            texts[folder / f"{spec.module_name}.py"] = generate(derive(spec))
    return write_files(texts, check=check)


def write_files(texts: Mapping[Path, str], *, check: bool) -> list[Path]:
    """Write texts to paths through a temporary name; with `check`, return the paths whose text differs."""
    if check:
        return [p for p, text in texts.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(path.suffix + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return list(texts)
