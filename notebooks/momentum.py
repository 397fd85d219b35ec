# %% [markdown]
# # Momentum: flows in phase space
#
# Most optimizers in use do not step along the gradient but along an average of it. The average remembers, so it has a
# say in when the weights begin to oscillate, how fast that grows, and where the time-averaged path goes. This notebook
# derives what changes, and runs heavy ball, Adam and one case in which the flow cannot be right. It follows
# [part I](part1.md) and [part III](part3.md), whose notation it uses.
#
# | symbol | meaning |
# |---|---|
# | $m$, $\beta_1$ | average of gradients, its decay |
# | $G(z)$ | transfer function: the average's answer to a gradient that grows by the factor $z$ with every step |
# | $c$ | threshold: curvature in units of $P$ at which the oscillation of period two begins |
# | $\Gamma$ | gain: how fast the oscillation grows per relative excess of the curvature over $c$ |
# | $\bar m$ | mean of the average before and after its update; it lives half a step before the weights |

# %%
# %matplotlib inline
import os
import warnings

import jax

import cflow_num as cn
import cflow_sym as cs
from cflow_num.report.figures import FIGURES

jax.config.update("jax_enable_x64", True)
REDUCED = os.environ.get("CFLOW_REDUCED") == "1"  # fewer steps, for a quick look
if REDUCED:
    jax.config.update("jax_disable_most_optimizations", True)  # compile in less time, run in more

# %% [markdown]
# ## A filter and its threshold
#
# Given its averages, the step is linear in the gradients that were seen: the optimizer is a linear filter, recognised
# in the update rule. All that the edge needs of it is the transfer function. An oscillation of period two is $z=-1$.

# %%
heavy_ball = cs.derive("heavy_ball_ema")
heavy_ball.to_markdown("transfer_function", "characteristic_equation", "threshold", "other_roots")

# %% [markdown]
# So momentum of this kind allows a *larger* curvature at the same learning rate. The price is in the next line: just
# beyond the threshold the oscillation grows that much faster than for gradient descent, where $\Gamma=2$.

# %%
heavy_ball.to_markdown("gain", "direction_m")

# %% [markdown]
# The same for the family, at $\beta_1=0.9$. Nesterov's look-ahead damps the oscillation instead:

# %%
beta1 = cs.symbols.beta1
thresholds = {}
for name in ("heavy_ball", "heavy_ball_ema", "nesterov", "adam", "nadam"):
    derivation = cs.derive(name)
    thresholds[name] = [
        float(x.subs(beta1, 0.9).subs(cs.symbols.t, 10_000)) for x in (derivation.threshold, derivation.gain)
    ]
    print(f"{derivation.spec.title:40} c = {thresholds[name][0]:7.3f}   gain = {thresholds[name][1]:6.2f}")

# %% [markdown]
# ## The flow of weights and average
#
# An average that is updated first and then used stands, on the averaged path, half a step before the weights. In terms
# of the mean $\bar m$ of its old and new value the continuous-time flow is of second order in the step:

# %%
heavy_ball.to_markdown("centre_mean_m", "centre_w")

# %% [markdown]
# And its leapfrog, with the step as a parameter. With step 1 and without oscillation it *is* the optimizer, not an
# approximation of it; with shorter steps the memory is matched so that the effect of a deviation stays the same.

# %%
heavy_ball.to_markdown("leap_mean_m", "leap_w", "memory_mean_m")

# %% [markdown]
# The oscillation enters as for all optimizers: its covariance shifts the averaged gradient, and is what keeps the
# effective sharpness at $c$. How far a shift moves the weights within the same step, which is what the complementarity
# problem of the step needs, is one more formula:

# %%
heavy_ball.to_markdown("leap_push")

# %% [markdown]
# ## Heavy ball at an established edge
#
# Handwritten digits, some labels random, so that the network does not fit them soon. The discrete run is already at
# its edge when the flows start, from its time average.

# %%
problem = cn.problem("digits-mlp", n=200, width=24, depth=2, noise=0.4)
start, steps = (225, 60) if REDUCED else (225, 200)
rate = float(heavy_ball.threshold.subs(beta1, 0.5)) / 4  # at its edge where the sharpness is 4
run = cn.run(
    problem,
    "heavy_ball_ema",
    {"learning_rate": rate, "beta1": 0.5},
    steps=steps,
    warm_start=start,
    average_start=True,
    quiet=True,
)
pictures = {}


def show(name, of=run):
    """Draw a figure of a run, and keep it."""
    pictures[name, of.config["optimizer"]] = picture = FIGURES[name](of)
    return picture


print(problem.description)
show("eigenvalues")

# %%
show("distances")

# %%
show("variance")

# %%
comparison = run.compare()
print(comparison)

# %% [markdown]
# ## Adam
#
# Adam is the same filter with a preconditioner that follows the squared gradients. Both are in the flow, and the
# squared gradients contain the oscillation's, as in part III. The threshold at $\beta_1=0.9$ is 38: Adam at its edge
# is nineteen times as sharp as RMSProp would be.

# %%
adam = cs.derive("adam")
adam.to_markdown("preconditioner", "leap_nu", "leap_average_nu")

# %%
hp = {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
if REDUCED:
    run_adam = run  # the quick look leaves Adam out
else:
    with warnings.catch_warnings(action="ignore", category=cn.GainWarning):
        run_adam = cn.run(problem, "adam", hp, steps=150, warm_start=200, average_start=True, quiet=True)
show("eigenvalues", run_adam)

# %%
show("loss", run_adam)

# %%
print(run_adam.compare())

# %% [markdown]
# The gain is 38, and the loss shows what that means: bursts. The eigenvalue passes the threshold by a few per cent,
# within a handful of steps the oscillation is large, and decays again. The flow has the average over them in its
# variance, but the loss of the optimizer is not a quadratic function of the displacement there.
#
# ## Where it fails
#
# Oscillation and sharpness chase each other in cycles, of which the central flow is the average. Their frequency
# follows from the gain. Whether they grow from one to the next is a matter of how late they answer each other:

# %%
heavy_ball.to_markdown("cycle", "theorem_mean_square", "cycle_growth", "burst_index")

# %% [markdown]
# Gradient descent is late by one step, heavy ball at $\beta_1=0.9$ by nineteen, and its gain is nineteen times as
# large: for the same sharpening prevented its cycles grow by 361 times as many $e$-folds, until they are bursts. Adam
# recovers from a burst since its preconditioner grows with the gradients of the burst. Heavy ball has nothing of the
# kind. At $\beta_1=0.9$ and the same sharpness:

# %%
hp = {"learning_rate": float(heavy_ball.threshold.subs(beta1, 0.9)) / 4, "beta1": 0.9}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always", cn.GainWarning)
    failed = cn.run(problem, "heavy_ball_ema", hp, steps=150, warm_start=100, processes=["discrete"], quiet=True).reason
print("before the run:", *(warning.message for warning in said))
print("after it:", failed)

# %% [markdown]
# There is no edge to be at, and no central flow of it: a flow that stays on the edge would be wrong. A table over
# optimizers, momenta and seeds is in docs/momentum.md, the runs that fail named; `make study` measures it. In short:
#
# - at an established edge the central flow is several times closer than the stable flow where the gain is moderate;
# - with a high gain it is still closer, but the predicted loss is off by the bursts;
# - from the first step it is closer only later: in double precision the oscillation has died out when the edge is met
#   and needs many steps to come back. `onset="delayed"` describes that.
#
# A spec of your own is [a new optimizer](new_optimizer.md).
