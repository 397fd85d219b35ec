"""Each step begins where the chain has come to, and each printed formula says what is meant."""

import dataclasses

import pytest
import sympy as sp

import cflow_sym as cs
from cflow_sym.derivation.derivation import StepError
from cflow_sym.derivation.values import same_value
from cflow_sym.notation import symbols as s
from cflow_sym.writing.latex_reader import UnreadableError, read
from cflow_sym.writing.printed import printed_as_meant

CASES = (
    "gradient_descent", "scalar_rmsprop", "rmsprop", "heavy_ball", "nadam", "adabelief", "normalized_gradient_descent",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_step_that_begins_elsewhere_is_refused(name):
    for step in cs.derive(name).steps:
        bad = dataclasses.replace(step, before=sp.sympify(step.before) + s.eta)
        if step.origin is None and not _reads_before(step):
            assert step.key.startswith(("theorem_", "cycle_growth", "burst_index")), (
                f"nothing holds where {step.key} begins"
            )
            continue
        with pytest.raises(StepError, match=step.key):
            bad.verify()


def _reads_before(step):
    try:
        dataclasses.replace(step, before=sp.sympify(step.before) + s.eta, origin=None).verify()
    except StepError:
        return True
    return False


@pytest.mark.parametrize("name", CASES)
def test_every_formula_of_the_notes_can_be_read_back(name):
    assert printed_as_meant(cs.derive(name)) == ("theorem_remainder_integral",)  # integrals are outside the grammar


def test_the_reduced_edge_is_the_optimizers():
    d = cs.derive("ademamix")
    named = {h.name: h.symbol for h in d.spec.hyperparameters}
    b1, b3, alpha = s.beta1, named["beta3"], named["alpha"]
    edge = 2 / ((1 - b1) / (1 + b1) + alpha * (1 - b3) / (1 + b3))
    nu = d.spec.state_symbols["nu"]
    assert same_value(d["reduced_edge"].xreplace({s.c: edge}), edge * sp.sqrt(nu) / s.eta)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"-\frac{\eta}{2} \left(g - x\right)^{2}", -s.eta / 2 * (s.g - s.x) ** 2),
        (r"\sqrt{\eta} g^{\odot 3}", sp.sqrt(s.eta) * s.g**3),
        (r"2 \tfrac12T[\Sigma]", 2 * s.gradient_shift),
        (r"T[\Sigma]", 2 * s.gradient_shift),
        (r"\log{\left(\eta \right)} \kappa_2", sp.log(s.eta) * (1 - s.beta2) / s.beta2),
    ],
)
def test_reading(text, value):
    assert sp.expand(read(text, {r"\eta": s.eta, "g": s.g, "x": s.x}) - value) == 0


def test_what_is_not_in_the_grammar_is_refused_with_its_place():
    with pytest.raises(UnreadableError, match="oint"):
        read(r"\eta \oint g", {r"\eta": s.eta, "g": s.g})
    with pytest.raises(UnreadableError, match="missing"):
        read(r"\frac{\eta}{g", {r"\eta": s.eta, "g": s.g})


def test_two_quantities_with_one_sign_are_refused(monkeypatch):
    from cflow_sym.writing import printed

    names = printed.latex_names
    monkeypatch.setattr(printed, "latex_names", lambda e: {**names(e), s.g_mean: "g"})
    with pytest.raises(StepError, match="both printed"):
        printed_as_meant(cs.derive("adabelief"))
