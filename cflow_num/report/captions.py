"""What stands with each figure: the text in its place for those who cannot see it, and its caption."""

from __future__ import annotations

# of one run: (alternative text, caption)
CAPTIONS = {
    "edge_of_stability": (
        "Leading effective eigenvalues with the stability threshold, training loss and gradient norm by step.",
        "The edge of stability: the largest effective eigenvalues rise until they meet the threshold and hover around "
        "it. From there on loss and gradient norm oscillate (wide, pale: their time averages), and go on falling.",
    ),
    "observables": (
        "Observed quantities by step for every process, with the predicted time averages, one panel each.",
        "What was asked to be observed: along the optimizer (thin; wide, pale: its time average), along the flows, and "
        "the time average that a flow predicts (dashed).",
    ),
    "diagnostics": (
        "Further quantities of the optimizer by step, one panel each.",
        "ζ is the share of the decrease promised by the gradient that the loss does not keep: 0 where the steps are "
        "small, 1 where they are an oscillation alone.",
    ),
    "loss": (
        "Training loss by step for every process, with the predicted time average.",
        "The optimizer's loss oscillates; its time average (wide, pale) should be covered by the average "
        "that the central flow predicts (dashed), which is its own loss plus what the oscillation adds. "
        "The stable flow, which ignores the oscillation, leaves both.",
    ),
    "eigenvalues": (
        "Leading effective eigenvalues of the Hessian by step, with the stability threshold.",
        "At the edge of stability the leading effective eigenvalues stay at the threshold. The optimizer "
        "hovers around it, the central flow stays on it exactly, and the stable flow crosses it without "
        "noticing.",
    ),
    "variance": (
        "Predicted and measured variance of the oscillation by step, one panel per direction.",
        "The oscillation's covariance Σ is the prediction that makes the flow a closed equation. Its "
        "eigenvalues (dashed) should run through the time average (wide, pale) of the squared "
        "displacement that the optimizer shows along the same directions.",
    ),
    "distances": (
        "Distance of every flow from the optimizer's averaged path by step, on a logarithmic axis.",
        "How far each flow is from the optimizer's midpoint, next to the distance that the optimizer has "
        "travelled. Lower is better; a flow that follows the optimizer stays flat.",
    ),
    "error_budget": (
        "Distances that each dropped term and the closure would move the weights by step, with the distance found.",
        "Where the distance comes from: how far each term that the flow drops would have moved the weights, and "
        "the closure, the oscillation's measured variance against the one that keeps the edge. Terms may cancel, and "
        "later motion may damp or amplify what they did: the line need not be the sum.",
    ),
    "effective_step_size": (
        "Effective step size by step, with the threshold over the sharpness.",
        "How far a step goes per unit of gradient. At the edge it equals the threshold over the sharpness "
        "S: an adaptive optimizer gets there by moving its step size, gradient descent by moving S.",
    ),
    "optimization_speed": (
        "Optimization speed of every flow by step, on a logarithmic axis.",
        "How fast the loss falls to first order, with the gradient along each flow and its own preconditioner. "
        "At the edge the central flow descends as fast as its curvature allows.",
    ),
    "squared_gradients": (
        "Squared gradient of single weights by step with its predicted time average, one panel per weight.",
        "What each weight's own step size is made from: the squared gradient that the optimizer meets (wide, pale: "
        "its time average) and what the central flow predicts for it (dashed), weight by weight.",
    ),
    "gradient_norm": (
        "Gradient norm by step with its predicted root mean square, on a logarithmic axis.",
        "At the edge most of the optimizer's gradient is oscillation: its root mean square lies far above "
        "the gradient norm along the central flow, and the flow predicts by how much (dashed).",
    ),
}

# the same, of several runs side by side
COMPARISONS = {
    "loss": (
        "Training loss by step with its predicted time average, one panel per run.",
        "How well the prediction (dashed) covers the time average (wide, pale), run by run. Runs of one problem share "
        "their axes.",
    ),
    "distances": (
        "Distance of every flow from the optimizer's averaged path by step, one panel per run.",
        "How far each run's flows are from its own optimizer, next to the distance that it has travelled. Where the "
        "central flow lies far below the stable one, it accounts for what the oscillation does to the path.",
    ),
    "eigenvalues": (
        "Leading effective eigenvalues by step with their threshold, one panel per run.",
        "When each run comes to the edge, and how many eigenvalues stay there.",
    ),
}
