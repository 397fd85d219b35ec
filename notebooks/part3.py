# %% [markdown]
# # Part III: RMSProp
#
# RMSProp keeps one average of squared gradients for each weight and so has one step size for each weight,
#
# $$
# \nu_t=\beta_2\nu_{t-1}+(1-\beta_2)\nabla L(w_t)^{\odot2},\qquad
# w_{t+1}=w_t-\frac{\eta}{\sqrt{\nu_t}}\odot\nabla L(w_t).
# $$
#
# The story of [part II](part2.md) goes through, with a diagonal matrix in place of the step size: what is held at
# the edge is the largest eigenvalue of the *effective Hessian* $P^{-1}H$, $P={\rm diag}(\sqrt\nu)/\eta$. That
# leaves a new question. A single number is determined by the edge. A whole diagonal matrix is not: many of them put
# $P^{-1}H$ at the edge. Which one does RMSProp take? (Theory:
# [arXiv:2410.24206](https://arxiv.org/abs/2410.24206).)

# %%
# %matplotlib inline
import inspect
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cflow_num as cn
import cflow_sym as cs
from cflow_num.reproduce import picture

jax.config.update("jax_enable_x64", True)
REDUCED = os.environ.get("CFLOW_REDUCED") == "1"  # a smaller network, for a quick look
if REDUCED:
    jax.config.update("jax_disable_most_optimizations", True)  # compile in less time, run in more

# %% [markdown]
# ## The derivation
#
# The steps that differ from Scalar RMSProp's: the preconditioner is a vector, its square roots are averaged entry by
# entry, and the variance has sums over the weights in it. $\odot$ is the product entry by entry.

# %%
derivation = cs.derive("rmsprop")
derivation.to_markdown("update", "preconditioner", "threshold", "stable_nu", "central_w", "central_nu")

# %% [markdown]
# For several critical directions $u_i$, normalized by $u_i^\top Pu_j=\delta_{ij}$, the derivation gives the two
# terms of the complementarity problem: how the distance $A=U^\top(cP-H)U$ from the edge moves by itself, and how a
# covariance $X$ changes that.

# %%
derivation.to_markdown("sdcp_constant", "sdcp_linear")

# %% [markdown]
# What is specific to an optimizer ends up in a few short functions; contractions with the Hessian and its
# derivative are written once for all optimizers. The rate of $\nu$, and the part of it that the oscillation adds:

# %%
generated = cs.compile(derivation)
print(inspect.getsource(generated.slow_drift))
print(inspect.getsource(generated.slow_drift_moments))

# %% [markdown]
# ## A run
#
# `capture` keeps the states of some single weights, spread over those that have a gradient at all.

# %%
if REDUCED:
    SIZE, STEPS, RATE, BETA2 = {"n": 50, "width": 8}, 240, 1.5e-3, 0.95
else:
    SIZE, STEPS, RATE, BETA2 = {}, 600, 1e-3, 0.99

problem = cn.problem("digits-mlp", **SIZE)
hp = {"learning_rate": RATE, "beta2": BETA2, "epsilon": 1e-8, "bias_correction": True}
run = cn.run(problem, "rmsprop", hp, steps=STEPS, warm_start=5, capture=10, quiet=True)
runs, pictures = {"rmsprop": run}, {}


def show(name):
    """Draw a figure of the package from the runs so far, and keep it."""
    pictures[name] = picture(name, runs)
    return pictures[name]


print(problem.description)
show("rmsprop-eigenvalues")

# %% [markdown]
# The flow predicts the covariance of the oscillation. Its eigenvalues, against what the optimizer does along its
# eigenvectors:

# %%
show("rmsprop-variances")

# %% [markdown]
# ## Does it follow the optimizer, weight by weight?
#
# The flow has a prediction for every single weight: its averaged squared gradient,
# $g^{\odot2}+{\rm diag}(H\Sigma H)$, which is what $\nu$ averages.

# %%
show("rmsprop-squared-gradients")

# %%
show("rmsprop-nu")

# %%
show("rmsprop-weight-distance")

# %%
show("rmsprop-loss")

# %%
comparison = run.compare()
print(comparison)

# %% [markdown]
# ## Which preconditioner?
#
# Hold the weights where they are and let $\nu$ run until it stands still. Its rate of change is zero where
# $\nu=g^{\odot2}+{\rm diag}(H\Sigma H)$, with a $\Sigma$ that lives in directions with $Hu=cPu$ only. These are the
# optimality conditions of a convex program, in which $\Sigma$ is the multiplier of the constraint:

# %%
derivation.to_markdown("theorem_program_slope", "theorem_program_is_rest", "theorem_stationary_P")

# %% [markdown]
# RMSProp is on its way to the smallest preconditioner, in the sense of this sum, under which no direction is beyond
# the edge. Is it? Train with optax's RMSProp, an implementation that knows nothing of this theory, at a larger
# learning rate and for long enough that $\nu$ has forgotten its beginning. Compare $\nu$ with the solution of the
# program at the weights where it is. Averages over the last steps take the oscillation out.

# %%
FAST, WARM, LAST = (2 * RATE, 200, 20) if REDUCED else (5 * RATE, 500, 40)
fast = hp | {"learning_rate": FAST}
options = dict(decay=BETA2, eps=hp["epsilon"], initial_scale=0.0, eps_in_sqrt=False, bias_correction=True)
optimizer = optax.rmsprop(FAST, **options)


@jax.jit
def trained(w):
    """Return the weights and the second moment, bias-corrected, after every step."""

    def step(carry, t):
        w, state = carry
        updates, state = optimizer.update(problem.gradient(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, optax.tree.get(state, "nu") / (1 - BETA2 ** (t + 1)))

    return jax.lax.scan(step, (w, optimizer.init(w)), jnp.arange(WARM))[1]


path, moments = trained(problem.w0)
w, nu = path[-LAST:].mean(axis=0), np.asarray(moments[-LAST:].mean(axis=0))
columns, iterations = (8, 200) if REDUCED else (24, 600)
rest = cn.stationary_preconditioner(problem, "rmsprop", fast, w, columns=columns, max_iterations=iterations)
nu_at_rest = (FAST * rest.P - hp["epsilon"]) ** 2
g = np.asarray(problem.gradient(w))


def cosine(a, b):
    """Return the cosine of the angle between two vectors."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


cosines = {"the program's solution": cosine(nu, nu_at_rest), "the squared gradient at w": cosine(nu, g**2)}
print(f"cosine of the angle between optax's nu after {WARM} steps and")
for name, value in cosines.items():
    print(f"  {name:<26} {value:.4f}")
print(f"largest effective eigenvalue under the solution: {rest.largest_effective_eigenvalue:.4f} thresholds")

# %% [markdown]
# The squared gradient of the averaged weights, to which one might think that $\nu$ is an approximation, is far less
# like it. What $\nu$ is made of is the oscillation, and the oscillation is there to satisfy the constraint.
#
# How good is the choice? With a fixed preconditioner the loss falls at rate $g^\top P^{-1}g$, the *optimization
# speed*. To compare with: gradient descent at its largest stable step size, $\frac2S\|g\|^2$.

# %%
P = (np.sqrt(nu) + hp["epsilon"]) / FAST
moving = nu > 0  # some pixels are always white: weights without a gradient
speeds = {
    "RMSProp's P": float(g[moving] @ (g / np.where(moving, P, 1.0))[moving]),
    "the program's P": rest.optimization_speed,
    "gradient descent, 2/S": rest.edge_speed,
}
for name, speed in speeds.items():
    print(f"{name:<22} {speed:.3e}  {speed / rest.edge_speed:.3g} times gradient descent's")

# %% [markdown]
# ## What the reduction of curvature is good for
#
# As in part II there is an ablated flow: at the edge by $\nu$ alone, without the push towards lower curvature. On so
# small a network and in so few steps the difference is small; it is in the speed first, and in the loss later.

# %%
if not REDUCED:
    kept = ("discrete", "central", "ablated")
    runs["rmsprop-larger"] = cn.run(problem, "rmsprop", fast, steps=240, warm_start=5, processes=kept, quiet=True)
show("rmsprop-ablated-flow") if not REDUCED else None

# %% [markdown]
# To see how an optimizer of your own gets all this, go on with [a new optimizer](new_optimizer.md).
