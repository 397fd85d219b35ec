"""The witnesses by name: the checks of a derivation, and the rows of the quick battery with few examples.

- `check OPTIMIZER [SWITCH ...]`: derive it and `check()` it; `order=consistent` among the switches.
- `row OPTIMIZER ROW`: one row of the quick battery, on the committed generated module.
- `compiled OPTIMIZER ROW`: the same on a module generated here.
- `suite OPTIMIZER [SWITCH ...]`: all of `check()` and of the quick battery, as they are; what a mutant survived before.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

EXAMPLES = 3


def caught_by(witness: str) -> str | None:
    """Return what a witness says against the packages as they are imported here, None where it has no objection."""
    kind, name, *rest = witness.split()
    return {"check": _check, "row": _row, "compiled": _compiled, "suite": _suite}[kind](name, *rest)


def _check(name: str, *switches: str) -> str | None:
    import cflow_sym as cs
    from cflow_sym.derivation.derivation import DerivationError, StepError
    from cflow_sym.spec.parts import SpecError

    order = next((s.partition("=")[2] for s in switches if s.startswith("order=")), "published")
    flags = {s: True for s in switches if "=" not in s}
    try:
        cs.derive(cs.optimizer(name), order=order, **flags).check()
    except (StepError, DerivationError, SpecError) as error:
        return str(error)
    return None


def _row(name: str, row: str) -> str | None:
    return _of_battery(importlib.import_module(f"cflow_sym.generated.{name}"), name, row)


def _compiled(name: str, row: str) -> str | None:
    import cflow_sym as cs

    return _of_battery(cs.optimizer(name).compile(), name, row)


def _suite(name: str, *switches: str) -> str | None:
    import cflow_sym as cs
    from cflow_num.testing import battery
    from cflow_sym.derivation.exact import other_points
    from cflow_sym.reading.tracing import double_precision
    from cflow_sym.writing.codegen import generate

    flow = importlib.import_module(f"cflow_sym.generated.{name}")
    if os.environ["CFLOW_MUTANT"] == "cflow_sym":  # a fault in the numerics changes nothing in a derivation
        found = _check(name, *switches)
        with other_points(1):
            found = found or _check(name, *switches)
        if found:
            return found
        try:
            text = generate(cs.optimizer(name).with_options().derive())
        except Exception as error:
            return f"no module is generated: {error}"
        if text == Path(flow.__file__ or "").read_text(encoding="utf-8"):
            return None  # the numbers are those of the committed module, whatever the battery runs
        flow = cs.optimizer(name).compile()
    tried = battery.Tried(cs.optimizer(name), True, {}, lambda _: None)
    with double_precision(), battery.fast_compilation(True):
        for row, (statement, run) in tried.numerical().items():
            tried.row(row, statement, lambda run=run: run(flow))
            if not tried.rows[-1].passed:
                return f"{row}: {tried.rows[-1].detail}"
    return None


def _of_battery(flow: object, name: str, row: str) -> str | None:
    import hypothesis

    import cflow_sym as cs
    from cflow_num.testing import battery
    from cflow_sym.reading.tracing import double_precision

    hypothesis.settings.register_profile("mutations", phases=[hypothesis.Phase.generate])  # no shrinking
    hypothesis.settings.load_profile("mutations")
    battery.EXAMPLES[True] = EXAMPLES
    tried = battery.Tried(cs.optimizer(name), True, {}, lambda _: None)
    with double_precision(), battery.fast_compilation(True):
        tried.row(row, "", lambda: tried.numerical()[row][1](flow))
    return None if tried.rows[0].passed else tried.rows[0].detail
