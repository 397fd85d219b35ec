# %% [markdown]
# # Part I: gradient descent
#
# Full-batch gradient descent on a neural network does not stay where the textbook would keep it. The curvature of
# the loss grows until the step size is just too large for it, the weights begin to oscillate, and training goes on
# like that, neither stable nor divergent: at the *edge of stability*. The exact path is then hard to say anything
# about. Its time average is not: it follows a differential equation, the *central flow* (Cohen et al.,
# [Understanding Optimization in Deep Learning with Central Flows](https://arxiv.org/abs/2410.24206)).
#
# This notebook runs gradient descent on a small network, derives its central flow, and compares the two. Every
# formula below is printed by the derivation and every number by the run; nothing is typed in.
#
# | symbol | meaning |
# |---|---|
# | $w$, $w_t$ | weights, weights after step $t$ |
# | $L(w)$, $g=\nabla L$, $H=\nabla^2L$ | training loss, its gradient, its Hessian |
# | $\eta$ | learning rate |
# | $S$, $u$ | sharpness: the largest eigenvalue of $H$; its unit eigenvector |
# | $\delta$, $\Sigma=E[\delta\delta^\top]$ | oscillation about the averaged path, its covariance |
# | $\sigma^2$ | variance of the oscillation along $u$, where there is one direction only |

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import numpy as np

import cflow_num as cn
import cflow_sym as cs
from cflow_num.reproduce import picture

jax.config.update("jax_enable_x64", True)
REDUCED = os.environ.get("CFLOW_REDUCED") == "1"  # a smaller network, for a quick look
if REDUCED:
    jax.config.update("jax_disable_most_optimizations", True)  # compile in less time, run in more

# %% [markdown]
# ## How large may a step be?
#
# On a quadratic loss with curvature $\lambda$ every step multiplies the weights by one fixed number. `cs.derive`
# turns the update rule into a list of small steps, each of them checked when it is made. Here are two of them: the
# preconditioner $P$ (a step is $-P^{-1}g$), and the curvature $c$, in units of $P$, beyond which the number is less
# than $-1$. The oscillation then changes its sign at every step and grows.

# %%
derivation = cs.derive("gradient_descent")
derivation.to_markdown("update", "preconditioner", "threshold")

# %% [markdown]
# So gradient descent is stable while $\eta S\le c$. The product $\eta S$ is the *effective sharpness*; for other
# optimizers it is the largest eigenvalue of $P^{-1}H$.
#
# ## What happens on a network
#
# A small tanh network learns handwritten digits with a squared error. `cn.run` takes three processes side by side,
# one unit of flow time for each step: the optimizer itself (`discrete`), the *stable flow*, here gradient flow
# $\dot w=-\eta g$, and the central flow, which is derived further below.

# %%
SIZE = {"n": 100, "width": 8} if REDUCED else {}
RATE, STEPS = (0.8, 340) if REDUCED else (0.8, 800)

problem = cn.problem("digits-mlp", **SIZE)


def output_size(params):
    """Return the mean square of the network's outputs, which comes up again further below."""
    return jnp.mean(problem.outputs(problem.ravel(params)) ** 2)


observe = {"output_size": output_size}
run = cn.run(problem, "gradient_descent", {"learning_rate": RATE}, steps=STEPS, observe=observe, quiet=True)
print(problem.description)
print(run)

# %% [markdown]
# The package has the figures of the paper as functions of runs. Each comes with a paragraph in which all numbers are
# read off the data that are drawn.

# %%
runs, pictures = {"gd": run}, {}


def show(name):
    """Draw a figure of the package from the runs so far, and keep it."""
    pictures[name] = picture(name, runs)
    return pictures[name]


show("gd-sharpness")

# %% [markdown]
# Two things are to be seen. The sharpness rises by itself up to the threshold; this is called *progressive
# sharpening*. And then, after an overshoot to which the last section comes back, it does not go on rising, although
# nothing in the update rule looks at curvature.
#
# ## Why it does not diverge
#
# Expand the gradient about a point at which the weights are displaced by $xu$ along the top eigenvector. The first
# order gives $xSu$: the oscillation. The second order gives $\tfrac12x^2\nabla S$, which has the same sign on both
# sides of the valley: every step of the oscillation also pushes the weights, ever so slightly, towards *lower*
# sharpness. A larger oscillation pushes harder, until the sharpness is below the threshold and the oscillation dies
# out. Then the cycle starts again.
#
# To see single cycles, take a network with one output (is the digit odd?), so that there is one direction to
# oscillate in.

# %%
if REDUCED:
    runs["gd-parity"] = run
else:
    one_output = cn.problem("digits-mlp", parity=True, **SIZE)
    runs["gd-parity"] = cn.run(one_output, "gradient_descent", {"learning_rate": 1.0}, steps=400, quiet=True)
show("gd-cycle")

# %% [markdown]
# ## The time average
#
# Now give up on the cycles and ask for the average over them. Write $w_t=w(t)+\delta_t$ with a smooth path $w(t)$ and
# an oscillation that averages to zero. Averaging the gradient over the oscillation leaves its push towards lower
# sharpness, in proportion to the variance:

# %%
derivation.to_markdown("expansion", "averaged_gradient", "remainder_averaged_gradient")

# %% [markdown]
# With one direction, $\Sigma=\sigma^2uu^\top$ and $\tfrac12T[\Sigma]=\tfrac12\sigma^2\nabla S$. How the averaged
# weights move is then clear but for one number, the variance. It is not a parameter to fit. At the edge the
# sharpness stands still on average, and there is just one variance which does that:

# %%
derivation.to_markdown("ansatz_w", "central_w", "equilibrium", "sigma_squared")

# %% [markdown]
# The variance is positive where gradient flow would make the sharpness rise. The push that it stands for cancels the
# rise exactly: the central flow is gradient flow *projected* to the surface of constant sharpness.
#
# The same expressions are written out as JAX. To see that formula and code agree, evaluate both somewhere:

# %%
s = cs.symbols
generated = cs.compile(derivation)
numbers = {"S": 3.0, "grad_dot_grad_S": -0.7, "grad_sq_norm": 0.5, "grad_S_sq_norm": 2.0}
formula = float(derivation.sigma_squared.subs({getattr(s, name): x for name, x in numbers.items()}))
code = float(generated.sigma_squared(**numbers, hp={"learning_rate": RATE}))
print(f"formula {formula:.12g}, code {code:.12g}")

# %% [markdown]
# ## Several directions
#
# Often several eigenvalues sit at the threshold, and the oscillation has a covariance instead of a variance. In
# coordinates along the critical directions it is a matrix $X$, and the condition becomes: $X\succeq0$, all
# effective eigenvalues stay at or below $c$, and $X$ has nothing in directions whose eigenvalue is below. This is a
# *semidefinite complementarity problem*, solved at every step; without critical direction its solution is zero and
# the central flow is the stable flow. Predicted and measured variances, direction by direction:

# %%
show("gd-variances")

# %%
show("gd-variance")

# %% [markdown]
# ## Does the flow follow the optimizer?
#
# In weights: the distance of both flows from the optimizer's averaged path.

# %%
show("gd-weight-distance")

# %% [markdown]
# In function space: the training loss. The optimizer's loss is higher than that of the averaged weights, since an
# oscillating point sits on the walls of the valley; the derivation says by how much.

# %%
derivation.to_markdown("predicted_loss", "predicted_loss_at_edge", "predicted_grad_sq_norm")

# %%
show("gd-loss")

# %%
show("gd-gradient-norm")

# %% [markdown]
# The loss of the optimizer goes up and down, that of the central flow should only go down. The derivation proves it:

# %%
derivation.to_markdown("theorem_descent")

# %%
along = run.tree["central"]["loss"].values
rises = np.diff(along) / along[:-1]
print(f"{along.size - 1} steps of the central flow; relative change of the loss in a step: at most {rises.max():.1e}")

# %% [markdown]
# ## An observable of your own
#
# Nothing in that argument is special to the loss. The time average of any smooth function $f$ of the weights is, to
# second order, $f+\tfrac12\langle\Sigma,D^2f\rangle$ at the central flow. The run above was asked to observe one, the
# mean square of the network's outputs. The optimizer's own, its time average, both flows and the prediction:

# %%
run.plot("output_size")

# %%
central = run.tree["central"]
added = central["predicted_output_size"] - central["output_size"]
print(f"the oscillation adds up to {float((added / central['output_size']).max()):.1%}")

# %% [markdown]
# ## The verdict
#
# `run.compare()` puts this into numbers with limits that were set before the runs were made. $D$ is the distance from
# the optimizer's second-order midpoint $(w_{t-1}+2w_t+w_{t+1})/4$, averaged over the last steps.

# %%
comparison = run.compare()
print(comparison)

# %% [markdown]
# ## Where it falls short
#
# When the edge is met for the first time there is no oscillation yet, only rounding errors, and these need many steps
# to grow. Until then the optimizer follows the *stable* flow, beyond the threshold, and makes up for it with a burst.
# The central flow knows nothing of this: it stays at the edge from the first moment on. How long this lasts:

# %%
for name in ("first_crossing", "onset_lag", "variance_slope"):
    row = comparison[name]
    print(f"{row.quantity}: {row.value if row.value is None else format(row.value, '.3g')} {row.note}".rstrip())

# %% [markdown]
# The next part, [part II](part2.md), is about an optimizer that chooses its own step size.
