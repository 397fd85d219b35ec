# %% [markdown]
# # A new optimizer: from three lines to a verdict
#
# Take an optimizer that no library has. *Tempered RMSProp* divides by a power $p$ of the average of squared gradient
# norms,
#
# $$
# \nu_t=\beta_2\nu_{t-1}+(1-\beta_2)\|\nabla L(w_t)\|^2,\qquad w_{t+1}=w_t-\eta\,\nu_t^{-p}\,\nabla L(w_t),
# $$
#
# so that it is Scalar RMSProp for $p=\frac12$ and gradient descent for $p\to0$. What is its edge of stability? Is it
# followed by a central flow? Does the rule of [part II](part2.md), steps of $2/S$, depend on $p$? This notebook goes
# the whole way: spec, derivation, generated code, properties, run, verdict.

# %%
# %matplotlib inline
import inspect
import os

import jax
import sympy as sp

import cflow_num as cn
import cflow_sym as cs
from cflow_num.report.figures import FIGURES
from cflow_num.testing import check

jax.config.update("jax_enable_x64", True)
REDUCED = os.environ.get("CFLOW_REDUCED") == "1"  # a smaller network, for a quick look
if REDUCED:
    jax.config.update("jax_disable_most_optimizations", True)  # compile in less time, run in more

# %% [markdown]
# ## The spec
#
# An optimizer is data: hyperparameters with their ranges, states with their updates, and the step $w_{t+1}-w_t$ in
# terms of the *updated* states. Symbols are those of the theory, `cs.symbols`; a new one, here $p$, is declared
# with the hyperparameter that it stands for. That $\nu$ is one number, and not one for each weight, is read off its
# update.

# %%
s, p = cs.symbols, sp.Symbol("p", positive=True)
LEARNING_RATE = cs.Hyperparameter("learning_rate", s.eta, meaning="learning rate")
BETA2 = cs.Hyperparameter("beta2", s.beta2, upper=1.0, meaning="decay of the average of squared gradient norms")
POWER = cs.Hyperparameter("power", p, upper=1.0, meaning="power of the average that the step is divided by")
NU = cs.State("nu", s.beta2 * s.nu + (1 - s.beta2) * cs.norm2(s.g), meaning="average of squared gradient norms")

spec = cs.OptimizerSpec(
    name="tempered_rmsprop",
    title="Tempered RMSProp",
    hyperparameters=(LEARNING_RATE, BETA2, POWER),
    states=(NU,),
    update=-s.eta * s.g / s.nu**p,
)
print(spec.title, spec.kinds)

# %% [markdown]
# A spec that makes no sense is refused at once, with the reason. Forget to declare the power:

# %%
try:
    cs.OptimizerSpec(name="tempered_rmsprop", hyperparameters=(LEARNING_RATE, BETA2), states=(NU,), update=spec.update)
except cs.SpecError as error:
    refused = str(error)
    print(refused)

# %% [markdown]
# ## The derivation
#
# Nothing below knows this optimizer in particular. Every step is checked when it is made, at random exact points
# and by another route than the one it was made by.

# %%
derivation = cs.derive(spec)
print(f"{len(derivation.steps)} steps, all checked; threshold c = {derivation.threshold}")
derivation.to_markdown("update", "preconditioner", "threshold", "preconditioner_drift")

# %% [markdown]
# Read it: $P=\nu^p/\eta$, and the threshold is that of all optimizers without momentum. What the power changes is how
# fast $P$ answers when $\nu$ moves, the last line. The flow, and the variance that keeps it at the edge:

# %%
derivation.to_markdown("stable_nu", "central_w", "central_nu", "edge_nu", "sigma_squared")

# %% [markdown]
# The flow of the weights alone, at the edge. The power is not in it, except through $\sigma^2$: steps of $2/S$ for
# every $p$.

# %%
derivation.to_markdown("reduced_w", "ablated_w")

# %% [markdown]
# Two cases are known. At $p=\frac12$ the variance must be that of the built-in Scalar RMSProp, and at $p=0$ that of
# gradient descent. There the edge says nothing about $\nu$, so take the variance from before $\nu$ was eliminated.

# %%
half = sp.simplify(derivation.sigma_squared.subs(p, sp.Rational(1, 2)) - cs.derive("scalar_rmsprop").sigma_squared)
print("difference to Scalar RMSProp at p = 1/2:", half)

with_states = derivation["sigma_squared_with_states"]  # before nu is eliminated by the edge
at_zero = sp.simplify(with_states.subs(p, 0) - cs.derive("gradient_descent").sigma_squared)
print("difference to gradient descent at p = 0:", at_zero)

# %% [markdown]
# What the theory assumes along the way is kept, too:

# %%
derivation.to_markdown("assumptions")

# %% [markdown]
# ## The code
#
# The formulas are written out as a JAX module. Two of its functions:

# %%
flow = cs.compile(derivation)
print(inspect.getsource(flow.preconditioner_drift))
print(inspect.getsource(flow.sigma_squared))

# %% [markdown]
# ## Its properties
#
# A formula can be derived without a slip and be of no use. `check` tries what must hold for every flow, with
# hyperparameters and states that hypothesis searches for: that the generated functions agree with automatic
# differentiation of the update rule, that a real discrete run takes the steps of the spec, that the threshold is
# where quadratics begin to oscillate, that the complementarity problem is solved at the edge, and that the flow
# keeps the symmetries of the optimizer.

# %%
properties = ("autodiff", "threshold", "edge") if REDUCED else ("autodiff", "update", "threshold", "edge", "symmetry")
battery = check(spec, quick=True, only=properties)
for row in battery.rows:
    print(f"{'pass' if row.passed else 'FAIL'}  {row.name:<10}  {row.statement} ({row.detail})")

# %% [markdown]
# ## A run
#
# The optimizer is one like all others now. Half of Scalar RMSProp's power, on handwritten digits:

# %%
if REDUCED:
    problem, rate, steps = cn.problem("digits-mlp", n=100, width=8), 0.3, 230
else:
    problem, rate, steps = cn.problem("digits-mlp"), 0.25, 400
hp = {"learning_rate": rate, "beta2": 0.99, "power": 0.25}
run = cn.run(problem, spec, hp, steps=steps, warm_start=5, quiet=True)
pictures = {}


def show(name):
    """Draw a figure of the run, and keep it."""
    pictures[name] = FIGURES[name](run)
    return pictures[name]


print(problem.description)
show("eigenvalues")

# %%
show("effective_step_size")

# %% [markdown]
# The step size is $2/S$ again, as the reduced flow says. The loss, and the distance in weights:

# %%
show("loss")

# %%
show("distances")

# %%
show("gradient_norm")

# %% [markdown]
# ## The verdict

# %%
comparison = run.compare()
print(comparison)

# %% [markdown]
# `run.report(folder)` writes all of this as one page, `run.save(path)` keeps the run.
#
# ## Other ways in
#
# An optimizer of this kind can also be written as text, for `cflow derive FILE.toml` and `cflow run --optimizer
# FILE.toml`: [an example](../../examples/layer_cube_root.toml) of four lines. One that exists as a JAX program does not
# have to be written down again: it is traced.

# %%
import optax

traced = cs.from_optax(optax.rmsprop)
print(traced.update)

# %% [markdown]
# ## What is refused
#
# Not every optimizer has a central flow. An update that is not smooth where the gradient changes its sign cannot be
# averaged by expanding it, and cflow says so instead of giving a formula:

# %%
try:
    cs.derive(cs.OptimizerSpec("sign_descent", -s.eta * sp.sign(s.g), (LEARNING_RATE,)))
except cs.SpecError as error:
    print(error)
