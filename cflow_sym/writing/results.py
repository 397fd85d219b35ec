"""What a note says first: preconditioner, threshold, flow and variance, when they hold, and what they mean."""

from __future__ import annotations

import sympy as sp

from cflow_sym.algebra import in_factors
from cflow_sym.derivation.derivation import Derivation
from cflow_sym.derivation.result import Part
from cflow_sym.notation import latex_of, orient, symbols
from cflow_sym.theory.canonical_form import CanonicalForm, canonical_form, has_momentum, memories, shorter
from cflow_sym.theory.leapfrog import average_symbols, memory_left
from cflow_sym.theory.stable_flow import rate_names
from cflow_sym.writing.typesetting import aligned, latex, shown

_s = symbols
LONG = 400  # characters of a formula that is not shown in a box
AT_THE_EDGE = (
    r"$\sigma^2$ is this value where the effective eigenvalue is at its threshold and the value is positive. Below the "
    r"edge $\sigma^2=0$, and at the edge where the value is negative, too (the eigenvalue then leaves it): there the "
    "flow is the stable flow."
)
MEANING = (
    r"- **$E[\cdot]$** is the mean over the oscillation. In neighbouring steps the displacement from the averaged path "
    r"is $\delta$ and $-\delta$; its sizes along the critical directions change in slow cycles, and $E[\cdot]$ is the "
    r"mean over these cycles, too.",
    r"- **$\sigma^2$** is the variance along the critical direction $u$ ($\|u\|=1$, $Hu=cPu$, curvature $S=u^\top "
    r"Hu$): $\Sigma=E[\delta\delta^\top]=\sigma^2uu^\top$. With $k$ critical directions, $U^\top PU=I$, it is "
    r"$\Sigma=UXU^\top$ with a covariance $X$ of shape $(k,k)$; for $k=1$ that is $\sigma^2=X/(u^\top Pu)$.",
    r"- **Three scales of time** are apart, $1\ll1/\omega\ll1/\varepsilon$: a step, a cycle of the oscillation "
    r"(frequency $\omega$, see *Other closures*), and the time $1/\varepsilon$ in which the flow itself changes. One "
    "unit of time is one step.",
)


def results(d: Derivation) -> str:
    """Return the results with the time for which each holds, in Markdown.

    >>> import cflow_sym as cs
    >>> "Late" in results(cs.derive("adam")), "Late" in results(cs.derive("rmsprop"))
    (True, False)
    """
    if d.spec.memoryless:
        parts = _without_memory(d)
    elif has_momentum(d.spec):
        parts = _with_momentum(d)
    else:
        parts = _plain(d)
    return "\n\n".join([*parts, *_predictions(d), "\n".join(MEANING)])


def _edge(d: Derivation) -> list[tuple[str, str]]:
    """Return P, c, gain and burst index."""
    of_time = r"(t)" if d.preconditioner.has(_s.t) else ""
    rows = [(f"P{of_time}", latex(d.preconditioner))]
    rows.append(("c(t)" if d.threshold.has(_s.t) else "c", latex(d.threshold)))
    gain = late_value(d.gain)
    rows.append((r"\Gamma", latex(gain) if len(latex(gain)) < LONG else r"\frac{2}{1+c\,G'(-1)}"))
    if not d.spec.memoryless:
        rows.append((r"\Gamma\theta", latex(d["burst_index"])))
    return rows


def late_value(expr: sp.Expr) -> sp.Expr:
    """Return the value after the corrections of bias.

    >>> late_value(_s.eta / (1 - _s.beta1**_s.t))
    eta
    """
    return shorter(expr.xreplace({p: sp.Integer(0) for p in expr.atoms(sp.Pow) if p.exp.has(_s.t)}))


def _flow(d: Derivation) -> list[tuple[str, str]]:
    return [(rf"\dot{{{latex_of(n)}}}", latex(shown(d, e))) for n, e in d.central_flow.items() if n != "t"]


def _rates(d: Derivation) -> str:
    names = rate_names(d.spec)
    return ", ".join(rf"${latex_of(k)}={latex(v)}$" for k, v in names.items())


def _edge_sentence(d: Derivation) -> str:
    drops = " The gain and the burst index are those of late times." if d.gain.has(_s.t) else ""
    index = (
        r", and the cycles of oscillation and curvature about the flow grow by $\Gamma\theta$, the burst index, in "
        r"$e$-folds per relative sharpening that the oscillation prevents"
        if not d.spec.memoryless
        else ""
    )
    index += " ($P$ held fixed; what its motion adds is in *Other closures*)" if "cycle_growth_nu" in d else ""
    return (
        rf"The step is $-P^{{-1}}$ times the {'filtered ' if has_momentum(d.spec) else ''}gradient"
        r"; it is stable along an eigenvector of $P^{-1}H$ with eigenvalue $\lambda$ while $\lambda<c$. Beyond, the "
        rf"oscillation grows at the rate $\Gamma(\lambda-c)/c${index}." + drops
    )  # fmt: skip


def _plain(d: Derivation) -> list[str]:
    rows = [*_flow(d), (r"\sigma^2", latex(shown(d, d.sigma_squared)))]
    with_rates = f", where {_rates(d)}" if _rates(d) else ""
    parts = [
        _edge_sentence(d),
        aligned(_edge(d)),
        f"The central flow with one critical eigenvalue{with_rates}:",
        aligned(rows),
        AT_THE_EDGE,
    ]
    if "reduced_w" in d and d.spec.states:
        edge = next(s.name for s in d.spec.state_updates if s != _s.t)
        parts += [
            rf"Along the edge ${latex_of(edge)}$ is a function of the sharpness, and the flow is one over the weights "
            "alone:",
            aligned([(r"\dot w", latex(shown(d, d["reduced_w"])))]),
        ]
    return parts


def _with_momentum(d: Derivation) -> list[str]:
    form = canonical_form(d.spec)
    centre = [(rf"\dot{{{latex_of(n)}}}", latex(e)) for n, e in d.centre_flow.items()]
    averaged = d.of(Part.LEAP_AVERAGE)
    for name in d.spec.slow_states:
        if name != "t":
            rate = averaged[name].xreplace(_read(form)).xreplace({_s.dt: sp.Integer(0)})
            centre.append((rf"\dot{{{latex_of(name)}}}", latex(_relaxing(rate, d.spec.state_symbols[name]))))
    tilde = ", ".join(f"${latex_of(n)}$" for n in d.centre_flow if n != "w")
    slow = " and slow states" if len(d.spec.slow_states) > 1 or d.preconditioner.has(_s.t) else ""
    parts = [
        _edge_sentence(d),
        aligned(_edge(d)),
        rf"**At every $t$** this is what runs: the averages of the gradient ({tilde}, normalized to it in the steady "
        rf"state){slow} move with the weights, driven by $\bar g=E[\nabla L]=g+\tfrac12T[\Sigma]$:",
        aligned(centre),
        r"$\Sigma$ keeps every eigenvalue of $P^{-1}H$ at or below $c$; it comes from a complementarity problem, which "
        "the leapfrog below solves at every step.",
        f"**Late**, {memories(form)}, every average stands at its steady value, $v$ times the gradient, and one "
        "critical eigenvalue gives closed forms" + (f", where {_rates(d)}" if _rates(d) else "") + ":",
        aligned(_closed(d)),
        AT_THE_EDGE,
    ]
    still = [n for n, e in d.stable_flow.items() if n not in ("w", "t") and not e.has(_s.g, _s.grad_sq_norm)]
    for name in still:
        x = latex_of(name)
        parts.append(
            rf"Without oscillation nothing feeds ${x}$ in these closed forms: $\dot{{{x}}}="
            rf"{latex(shown(d, d.stable_flow[name]))}$, so that $P\to0$ and any positive curvature reaches the edge."
        )
    if "sigma_squared_in_time" in d:
        parts += [
            "While $t$ is not yet large against the memory of the slow state, but "
            f"{memories(form, of_states=False)}, the correction of bias counts, in $P(t)$ and through its motion:",
            aligned([(r"\sigma^2(t)", latex(shown(d, d["sigma_squared_in_time"])))]),
        ]
    return parts


def _read(form: CanonicalForm) -> dict[sp.Symbol, sp.Expr]:
    """Return the averages that slow states read, updated a step of length dt after those of the centre flow."""
    found = {}
    for m, average, b in zip(form.states, average_symbols(form), form.b, strict=False):
        found[m] = form.steady[m] * (_s.g - memory_left(b) * (_s.g_mean - average))
    return found


def _relaxing(rate: sp.Expr, state: sp.Symbol) -> sp.Expr:
    """Write a rate as what relaxes towards what drives it."""
    speed = orient(in_factors(-rate.diff(state)))
    if speed == 0 or speed.has(state):
        return rate
    driven = sp.expand(rate + speed * state)
    terms = sp.collect(driven, (_s.gradient_variance, _s.gradient_shift), evaluate=False)
    return speed * (sp.Add(*(in_factors(q / speed) * m for m, q in terms.items())) - state)


def _closed(d: Derivation) -> list[tuple[str, str]]:
    late = d.of(Part.LATE)
    rows = [(sign, latex(late[n])) for sign, n in (("P", "preconditioner"), ("c", "threshold")) if n in late]
    return [*rows, ("v", latex(d["speed"])), *_flow(d), (r"\sigma^2", latex(shown(d, d.sigma_squared)))]


def _without_memory(d: Derivation) -> list[str]:
    return [
        _edge_sentence(d),
        aligned([*_edge(d), (r"\dot w\big|_{\Sigma=0}", latex(shown(d, d.stable_flow["w"])))]),
        r"**No central flow is claimed.** A state without memory oscillates as much as the gradient does, and the "
        r"derivation holds states fixed over one period. The limit $\beta_2\to0$ of the flow with a decaying average "
        "is formal and wrong at leading order: a term that every flow drops is here as large as the step along the "
        "critical direction (*The limit without memory*). For comparison, that limit is",
        aligned([*_flow(d), (r"\lim_{\beta_2\to0}\sigma^2", latex(shown(d, d.sigma_squared)))]),
    ]


def _predictions(d: Derivation) -> list[str]:
    rows = [("E[L]", latex(d["predicted_loss"])), (r"E[\|\nabla L\|^2]", latex(shown(d, d["predicted_grad_sq_norm"])))]
    rows += [(rf"\bar{{{latex_of(n)}}}", latex(shown(d, e))) for n, e in d.stationary.items()]
    rest = " and the value at which the slow state stands still" if d.stationary else ""
    return [f"Time averages along the flow{rest}:", aligned(rows)]
