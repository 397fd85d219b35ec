"""What is recorded: names, units and meanings, the terms of the error budget, and the names of the processes."""

from __future__ import annotations

DISCRETE = "discrete"
FLOWS = ("stable", "central", "ablated", "stationary")
CLOSURES = ("rod", "edge", "envelope")  # other closures of the averages that the central flow takes
PROCESSES = [DISCRETE, *FLOWS, *CLOSURES]  # and those that `running.kinds.register` adds

PREDICTED = "predicted_{}"  # by a flow with an oscillation: the time average of an observable

# the error budget's terms, and the variables that hold them
TERMS = {
    "gradient": "fourth and higher order of the averaged gradient",
    "squared_gradient": "cross term and fourth order of the averaged rates of the states",
    "alternating": "product of the alternating parts of gradient and preconditioner",
    "finite_step": "half the acceleration: one step of the optimizer against one unit of flow",
}
RELATIVE, DISTANCE, TOTAL = "budget_{}", "budget_{}_distance", "budget_distance"
OFF_THRESHOLD, INTEGRATOR, PUSH = "budget_off_threshold", "budget_integrator", "budget_push"

_RATIOS = {RELATIVE.format(name): ("", "1", f"{what}, relative to the term kept") for name, what in TERMS.items()}
_DISTANCES = {
    DISTANCE.format(name): ("", "weight", f"{what}: distance it alone would move") for name, what in TERMS.items()
}
_BUDGET = _RATIOS | _DISTANCES
# name: (extra dimension, units, meaning)
VARIABLES = {
    "loss": ("", "loss", "training loss at the weights of the step"),
    "gradient_norm": ("", "loss/weight", "Euclidean norm of the gradient"),
    "effective_eigenvalues": ("eig", "1", "leading eigenvalues of P^-1 H"),
    "eigenvalues_exact": ("", "1", "1 where effective eigenvalues were evaluated, 0 where they are interpolated"),
    "growth": ("eig", "1", "log|mu|: rate at which the oscillation along each eigenvector grows in a step"),
    "offset": ("eig", "weight", "distance from where the gradient along the eigenvector vanishes; the sign alternates"),
    "rounding": ("", "weight", "what rounding adds to the oscillation along a direction in a step"),
    "threshold": ("", "1", "c: effective eigenvalues equilibrate there"),
    "nu": ("", "loss^2/weight^2", "second-moment state used in the step"),
    "optimization_speed": ("", "loss", "g' P^-1 g: decrease of the loss in one step, to first order"),
    "effective_step_size": ("", "weight^2/loss", "1/P: how far a step goes per unit of gradient"),
    "first_order_decrease": ("", "loss", "-g's: decrease of the loss that the gradient promises for a step s"),
    "zeta": ("", "1", "share of the promised decrease that is not kept, of smoothed sums"),
    "curvature_along_step": ("", "loss", "s' H s along the step s"),
    "gbs": ("", "1", "s' H s / -g's, of smoothed sums: twice zeta for a quadratic loss"),
    "critical_step": ("", "1", "how many times the step leads to the same loss"),
    "clipping_threshold": (
        "",
        "loss/weight",
        "root of the average of |grad|^2: clipping at less moves the edge",
    ),
    "midpoint_loss": ("", "loss", "loss at the second-order midpoint (w[t-1] + 2 w[t] + w[t+1])/4"),
    "distance_from_start": ("", "weight", "distance of the midpoint from step 0"),
    "displacement": ("eig", "weight * P^1/2", "w minus midpoint along the eigenvectors of Sigma, P metric"),
    "distance_to_discrete": ("", "weight", "distance from the discrete optimizer's midpoint"),
    "predicted_loss": ("", "loss", "time-averaged loss predicted by the flow: L + <Sigma, H>/2"),
    "predicted_squared_gradient_norm": ("", "loss^2/weight^2", "predicted time average of |grad|^2"),
    "squared_gradient": ("coordinate", "loss^2/weight^2", "squared gradient of single weights"),
    "predicted_squared_gradient": ("coordinate", "loss^2/weight^2", "its predicted time average"),
    "sigma_eigenvalues": ("eig", "weight^2 * P", "eigenvalues of Sigma in the P metric, mean of the last sub-step"),
    "residual": ("", "1", "largest relative residual of the complementarity problems of the step"),
    "eigen_converged": ("", "1", "1 where the effective eigenvalues recorded have reached their tolerance"),
    "eigen_residual": ("", "1", "largest residual of a critical eigenpair, relative to the largest eigenvalue"),
    TOTAL: ("", "weight", "distance that all dropped terms together would move the weights"),
    OFF_THRESHOLD: ("", "1", "largest relative deviation of a critical eigenvalue from the threshold"),
    INTEGRATOR: ("", "1", "largest error estimate of a step of the integrator, relative to its length"),
    PUSH: ("eig", "1/(weight * P)", "speed of the weights for a unit of variance along an eigenvector of Sigma"),
    "n_gradients": ("", "1", "gradient evaluations so far"),
    "n_hessian_vectors": ("", "1", "Hessian-vector products so far"),
    "n_curvature_gradients": ("", "1", "third-derivative evaluations so far"),
    "seconds": ("", "s", "processor wall time so far, without compilation"),
} | _BUDGET
