"""Runs made up so that every number of their comparison is known in closed form."""

import json
import math

import numpy as np
import xarray as xr

from cflow_num.record.run import Run

STEPS, CROSSING, C = 400, 100, 2.0
OSCILLATION = 0.04  # squared displacement, predicted and measured


def synthetic(steps=STEPS, crossing=CROSSING, c=C, reason="", ratio=0.1, off=0.0, problem="toy", asked=None, **changes):
    """Return a run at the edge from `crossing` on, everything constant, predictions off by `off`."""
    t = np.arange(steps + 1)
    at_edge = t >= (steps + 1 if crossing is None else crossing)
    midpoint = np.where((t > 0) & (t < steps), 1.0, np.nan)
    one = np.ones(steps + 1)
    eigenvalues = np.stack([np.where(at_edge, c, 0.9 * c), np.full(steps + 1, 0.8 * c)], axis=1)
    sign = (-1.0) ** t
    common = {
        "loss": 3 * one,
        "gradient_norm": 2 * one,
        "effective_eigenvalues": eigenvalues,
        "threshold": c * one,
    }
    groups = {
        "discrete": {
            **common,
            "effective_step_size": 0.5 * one,
            "midpoint_loss": 3 * midpoint,
            "distance_from_start": 4 * midpoint,
            "displacement": np.stack([np.where(at_edge, sign * math.sqrt(OSCILLATION), 0), 0 * one], axis=1)
            * midpoint[:, None],
            "n_gradients": t,
        },
        "stable": {
            **common,
            "distance_to_discrete": np.where(at_edge, 2.0, 0.01) * midpoint,
            "n_gradients": 6 * t,
        },
        "central": {
            **common,
            "effective_step_size": 0.5 * one,
            "distance_to_discrete": np.where(at_edge, 2 * ratio, 0.01) * midpoint,
            "predicted_loss": 3 * (1 + off) * one,
            "predicted_squared_gradient_norm": 4 * (1 + off) * one,
            "sigma_eigenvalues": np.stack([np.where(at_edge, OSCILLATION * (1 + off), 0), 0 * one], axis=1),
            "residual": 1e-12 * one,
            "n_gradients": 4 * t,
            "n_hessian_vectors": 10 * t,
            "n_curvature_gradients": 3 * t,
        },
    }
    for name, variables in changes.items():
        groups[name] = {**groups.get(name, {}), **variables}
    datasets = {
        name: xr.Dataset({key: (("step", "eig")[: np.ndim(x)], np.asarray(x, float)) for key, x in group.items()})
        for name, group in groups.items()
    }
    tree = xr.DataTree.from_dict(datasets)
    config = {
        "optimizer": "scalar_rmsprop",
        "title": "Scalar RMSProp",
        "hyperparameters": {"learning_rate": 0.1},
        "problem": problem,
        "steps": asked or steps,
        "processes": list(groups),
    }
    tree.attrs = {"config": json.dumps(config), "reason": reason, "versions": json.dumps({"cflow": "0"})}
    return Run(tree)


def without(run, process):
    tree = run.tree.copy()
    del tree[process]
    return Run(tree)
