# %% [markdown]
# # Part II: Scalar RMSProp
#
# An adaptive optimizer divides its learning rate by a running average of squared gradients. What does it adapt to?
# The simplest case, *Scalar RMSProp*, has one average for all weights,
#
# $$
# \nu_t=\beta_2\nu_{t-1}+(1-\beta_2)\|\nabla L(w_t)\|^2,\qquad w_{t+1}=w_t-\frac{\eta}{\sqrt{\nu_t}}\nabla L(w_t),
# $$
#
# and so an *effective step size* $\eta/\sqrt{\nu}$ that changes in time. It sees gradients only. Its central flow
# will show that what sets the step size is the curvature, that the largest stable step size comes out by itself, and
# that the learning rate $\eta$ does something else than its name says. The theory is that of
# [arXiv:2410.24206](https://arxiv.org/abs/2410.24206); notation and averages are explained in [part I](part1.md).

# %%
# %matplotlib inline
import os

import jax

import cflow_num as cn
import cflow_sym as cs
from cflow_num.reproduce import picture

jax.config.update("jax_enable_x64", True)
REDUCED = os.environ.get("CFLOW_REDUCED") == "1"  # a smaller network, for a quick look
if REDUCED:
    jax.config.update("jax_disable_most_optimizations", True)  # compile in less time, run in more

# %% [markdown]
# ## A run
#
# `warm_start` lets the optimizer take a few steps before step 0, so that $\nu$ is not at its initial value of zero,
# at which the first step would be huge.

# %%
SIZE, STEPS = ({"n": 100, "width": 8}, 215) if REDUCED else ({}, 500)
problem = cn.problem("digits-mlp", **SIZE)
runs, pictures = {}, {}


def train(learning_rate=0.1, beta2=0.99, processes=("discrete", "stable", "central")):
    """Run Scalar RMSProp and its flows, all from the same weights."""
    hp = {"learning_rate": learning_rate, "beta2": beta2}
    return cn.run(problem, "scalar_rmsprop", hp, steps=STEPS, warm_start=5, processes=processes, quiet=True)


def show(name):
    """Draw a figure of the package from the runs so far, and keep it."""
    pictures[name] = picture(name, runs)
    return pictures[name]


run = runs["scalar-rmsprop"] = train()
print(problem.description)
show("scalar-rmsprop-onset")

# %% [markdown]
# The gradient norm falls at first, and then begins to spike. The derivation says when that must happen:

# %%
derivation = cs.derive("scalar_rmsprop")
derivation.to_markdown("update", "preconditioner", "threshold")

# %% [markdown]
# In words: Scalar RMSProp is gradient descent with step size $\eta/\sqrt\nu$ (while that changes slowly), so that
# it oscillates where the *effective sharpness* $S_{\rm eff}=\eta S/\sqrt\nu$ is above $c$. It can get there in two
# ways, by a growing sharpness or by falling gradients, which let $\nu$ shrink.

# %%
show("scalar-rmsprop-effective-sharpness")

# %% [markdown]
# ## Two ways back
#
# Beyond the threshold the oscillation grows. Two things then bring $S_{\rm eff}$ down again. As in part I the
# oscillation pushes towards lower sharpness: the numerator falls. And its gradients are large, $\nu$ grows with them:
# so does the denominator. Which of them does how much of the work?

# %%
show("scalar-rmsprop-mechanisms")

# %% [markdown]
# That depends on the memory of $\nu$, about $1/(1-\beta_2)$ steps. A $\nu$ that reacts slowly leaves more of the
# work to the sharpness, and that is not undone later: in the long run the paths differ.

# %%
runs["scalar-rmsprop-beta2-0.99"] = run
runs["scalar-rmsprop-beta2-0.999"] = train(beta2=0.999)
show("scalar-rmsprop-beta2-long")

# %% [markdown]
# ## The central flow
#
# Without oscillation, weights and average obey the *stable flow*. (The average is written in terms of its updated
# value, which makes the rate $(1-\beta_2)/\beta_2$, not $1-\beta_2$.)

# %%
derivation.to_markdown("stable_nu", "stable_w")

# %% [markdown]
# The oscillation enters twice, as a push on the weights and as a contribution to the squared gradient that $\nu$
# averages:

# %%
derivation.to_markdown("averaged_gradient", "averaged_squared_gradient", "central_w", "central_nu")

# %% [markdown]
# Its variance is again what keeps the edge where it is: $\eta S/\sqrt\nu=c$ at all times. Now both ways back are in
# the condition, one in each term of the denominator.

# %%
derivation.to_markdown("equilibrium", "edge_nu", "sigma_squared")

# %% [markdown]
# The code that is generated from this against the formula, somewhere:

# %%
s = cs.symbols
generated = cs.compile(derivation)
numbers = {"S": 3.0, "grad_dot_grad_S": -0.7, "grad_sq_norm": 0.5, "grad_S_sq_norm": 2.0}
at = {getattr(s, name): x for name, x in numbers.items()} | {s.eta: 0.1, s.beta2: 0.99}
formula = float(derivation.sigma_squared.subs(at))
code = float(generated.sigma_squared(**numbers, hp={"learning_rate": 0.1, "beta2": 0.99}))
print(f"formula {formula:.12g}, code {code:.12g}")

# %% [markdown]
# ## Does it follow the optimizer?

# %%
show("scalar-rmsprop-stable-flow")

# %% [markdown]
# (The stable flow gets to lower losses, too. No optimizer can follow it there: its steps are far too large for the
# curvature that it meets.)

# %%
show("scalar-rmsprop-weight-distance")

# %% [markdown]
# Time averages are predicted, too. The gradient norm is the hardest of them, since it is nearly all oscillation:

# %%
show("scalar-rmsprop-loss")

# %%
show("scalar-rmsprop-gradient-norm")

# %% [markdown]
# Several eigenvalues are at the edge at once here; with the complementarity problem of part I all of them are held
# there.

# %%
show("scalar-rmsprop-eigenvalues")

# %%
comparison = run.compare()
print(comparison)

# %% [markdown]
# ## What it adapts to
#
# With the flow in hand the question of the beginning has an answer. At the edge $\eta S/\sqrt\nu=2$, and so
#
# $$
# \frac{\eta}{\sqrt\nu}=\frac{2}{S(w)},
# $$
#
# the largest step size that gradient descent could take at these weights without oscillating. Nobody measures the
# sharpness: the oscillation does, through the gradients that $\nu$ averages.

# %%
show("scalar-rmsprop-step-size")

# %% [markdown]
# That lets $\nu$ be eliminated. What is left is a flow of the weights alone, with steps of $2/S$ and a regularizer of
# the sharpness, of strength $\sigma^2(w;\eta,\beta_2)$. Without the regularizer it is called the *ablated* flow.

# %%
derivation.to_markdown("reduced_w", "ablated_w")

# %% [markdown]
# ## What the learning rate does
#
# In the reduced flow $\eta$ is nowhere but in $\sigma^2$. A larger one regularizes more, which can be proved from the
# formula above (the slope is positive wherever $\sigma^2$ is):

# %%
derivation.to_markdown("theorem_sigma_squared_by_rate", "theorem_slope_in_learning_rate", "theorem_slope_positive")

# %%
WITH_ABLATED = ("discrete", "stable", "central", "ablated")
runs["scalar-rmsprop-rate-0.05"] = train(learning_rate=0.05)
runs["scalar-rmsprop-rate-0.2"] = train(learning_rate=0.2, processes=WITH_ABLATED)
show("scalar-rmsprop-learning-rates")

# %% [markdown]
# ## Why that makes training faster
#
# To reduce sharpness is often thought of as something for generalization, at the expense of speed. Here it is the
# other way round. The step size is $2/S$ with and without the regularizer; with it, the path leads to where $S$ is
# small and steps are large. Compare the central flow with the ablated one, which has the same rule for its step
# size:

# %%
show("scalar-rmsprop-acceleration")

# %% [markdown]
# It also explains why a larger learning rate takes larger steps, though $2/S$ does not depend on it. The effect is
# indirect and takes time:

# %%
show("scalar-rmsprop-larger-steps")

# %% [markdown]
# ## The verdict for every run

# %%
print(f"{'learning rate':>13} {'beta2':>6} {'D_central/D_stable':>19} {'loss error':>11} {'S at the end':>13}  verdict")
ratios = {}
for name, one in runs.items():
    if name == "scalar-rmsprop-beta2-0.99":  # the first run once more
        continue
    hp, rows = one.config["hyperparameters"], one.compare()
    central = one.tree["central"]
    S = float((central["effective_eigenvalues"][:, 0] / central["effective_step_size"])[-1])
    ratios[name] = rows["distance_ratio"].value
    error = rows["predicted_loss"].value
    known = "not judged" if error is None else f"{error:.2%}"
    end = rows.verdict.split(":")[0]
    print(f"{hp['learning_rate']:13g} {hp['beta2']:6g} {ratios[name]:19.4f} {known:>11} {S:13.3g}  {end}")

# %% [markdown]
# Next, [part III](part3.md): one step size for each weight.
