"""What the figures are made from: runs by name, small ones and those of the paper's size."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..support.errors import check_one_of

SCALES = ("small", "paper")
IMAGES, SEQUENCES = ("mlp", "cnn", "resnet", "vit"), ("lstm", "transformer", "mamba")
ARCHITECTURES = IMAGES + SEQUENCES
LOSSES = {"mse": "mse", "ce": "cross-entropy"}
OPTIMIZERS = {"gd": "gradient_descent", "scalar-rmsprop": "scalar_rmsprop"}  # on all architectures
FIXED: dict[str, dict[str, Any]] = {
    "gd": {},
    "scalar-rmsprop": {"beta2": 0.99, "bias_correction": True},
    "rmsprop": {"beta2": 0.99, "epsilon": 1e-8, "bias_correction": True},
}
AT_EDGE = {"gradient_descent": 1.6, "scalar_rmsprop": 0.125, "rmsprop": 1.25e-3}  # small learning rates of ratio 1
RATES = (0.05, 0.1, 0.2)  # of Scalar RMSProp, on the same problem from the same weights
VIT_RATIOS = (0.2, 0.4, 0.8)
SHARES = {  # of the threshold at the start; with cross-entropy the curvature grows many times over from there
    ("gd", "mse"): {"mlp": 0.9, "cnn": 0.9, "lstm": 0.9},
    ("gd", "ce"): {"mlp": 0.2, "cnn": 0.1, "resnet": 0.4},
    ("scalar-rmsprop", "mse"): {"mamba": 0.4},
}
SHARE = {("gd", "mse"): 0.5, ("gd", "ce"): 0.15, ("scalar-rmsprop", "mse"): 0.8, ("scalar-rmsprop", "ce"): 0.2}
LONG_WAIT = "left out of small figures: eigenvalues crowd at the edge, and the flow's steps stay short"
LEFT_OUT = {("ce", "lstm"): LONG_WAIT, ("ce", "mamba"): LONG_WAIT}  # from the small figures over architectures
STEPS = {  # of small runs, 200 at the edge where that takes no more than minutes, else 150; 250 for the others
    ("gd", "mse"): {"mlp": 700, "cnn": 400, "lstm": 400},  # which meet it late
    ("gd", "ce"): {"mlp": 300, "resnet": 160, "vit": 165, "transformer": 180},
    ("scalar-rmsprop", "mse"): {"resnet": 160, "vit": 200, "lstm": 160, "mamba": 80},
    ("scalar-rmsprop", "ce"): {"resnet": 200, "vit": 160, "transformer": 165},
}


@dataclass(frozen=True)
class Setting:
    """One run. `ratio` asks for the learning rate at which S_eff at the start is that share of the threshold."""

    optimizer: str
    hyperparameters: dict[str, Any]
    problem: str = "digits-mlp"
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 500
    warm_start: int = 0
    processes: tuple[str, ...] = ("discrete", "stable", "central")
    capture: int = 0
    eig_every: int = 1
    ratio: float | None = None
    budget: bool = False

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def setting(key: str, scale: str = "small") -> Setting:
    """Return a run's setting by name; raises `InputError` for one that is not there.

    >>> setting("gd").hyperparameters, setting("gd-ce-vit").options["loss"]
    ({'learning_rate': 0.8}, 'cross-entropy')
    """
    check_scale(scale)
    known = _settings(scale)
    check_one_of("run", key, known)
    return known[key]


def check_scale(scale: str) -> None:
    """Raise `InputError` for a scale that is not there."""
    check_one_of("scale", scale, SCALES)


def _settings(scale: str) -> dict[str, Setting]:
    runs = _on_digits() if scale == "small" else {k: _at_paper_size(s) for k, s in _on_digits().items()}
    for kind, optimizer in OPTIMIZERS.items():
        for short, loss in LOSSES.items():
            for architecture in ARCHITECTURES:
                ratio = SHARES.get((kind, short), {}).get(architecture, SHARE[kind, short])
                steps = 2000 if scale == "paper" else STEPS[kind, short].get(architecture, 250)
                runs[f"{kind}-{short}-{architecture}"] = replace(
                    _network(architecture, loss, scale),
                    optimizer=optimizer,
                    hyperparameters=FIXED[kind],
                    ratio=ratio,
                    steps=steps,
                    budget=True,
                )
    for ratio in VIT_RATIOS:
        runs[vit(ratio)] = replace(
            _network("vit", "mse", scale),
            optimizer="scalar_rmsprop",
            hyperparameters=FIXED["scalar-rmsprop"],
            processes=("discrete", "stable", "central", "ablated"),
            eig_every=5,
            ratio=ratio,
            steps=2000 if scale == "paper" else 160,
        )
    return runs


def _on_digits() -> dict[str, Setting]:
    scalar = Setting("scalar_rmsprop", {"learning_rate": 0.1, "beta2": 0.99}, steps=500, warm_start=5)
    runs = {
        "gd": Setting("gradient_descent", {"learning_rate": 0.8}, steps=800),
        "scalar-rmsprop": scalar,
        "rmsprop": Setting(
            "rmsprop",
            {"learning_rate": 1e-3} | FIXED["rmsprop"],
            steps=600,
            warm_start=5,
            capture=10,
        ),
    }
    # At a larger learning rate the flows differ more; the stationary one costs more than all others together.
    everything = ("discrete", "stable", "central", "ablated", "stationary")
    larger = {"learning_rate": 5e-3} | FIXED["rmsprop"]
    runs["rmsprop-larger"] = replace(
        runs["rmsprop"], hyperparameters=larger, steps=240, processes=everything, capture=0
    )
    one_target = {"parity": True}  # fewer critical eigenvalues: cycles stay apart
    runs["gd-parity"] = Setting("gradient_descent", {"learning_rate": 1.0}, options=one_target, steps=400)
    for beta2 in (0.99, 0.999):
        corrected = {"learning_rate": 0.1, "beta2": beta2, "bias_correction": True}
        runs[beta(beta2)] = replace(scalar, hyperparameters=corrected, options=one_target)
    for rate in RATES:
        runs[at_rate(rate)] = replace(scalar, hyperparameters={"learning_rate": rate, "beta2": 0.99})
    largest = at_rate(RATES[-1])  # whose regularizer is the strongest
    runs[largest] = replace(runs[largest], processes=("discrete", "stable", "central", "ablated"))
    return runs


def _at_paper_size(small: Setting) -> Setting:
    """Return the setting on a larger network; learning rates keep their proportions."""
    network, hp = _network("cnn", "mse", "paper"), dict(small.hyperparameters)
    ratio = min(hp.pop("learning_rate", 0.0) / AT_EDGE[small.optimizer], 2.0) if small.ratio is None else small.ratio
    hp |= {} if small.optimizer == "gradient_descent" else {"bias_correction": True}
    changed = replace(network, optimizer=small.optimizer, hyperparameters=hp, ratio=ratio)
    return replace(changed, warm_start=small.warm_start, processes=small.processes, capture=small.capture, eig_every=1)


def _network(architecture: str, loss: str, scale: str) -> Setting:
    large = scale == "paper"
    options: dict[str, Any] = {"loss": loss, "size": scale}
    if large:
        options |= {"data": "cifar10", "n": 1000} if architecture in IMAGES else {}
    else:
        options |= {"n": 100}  # of digits, or of sequences to sort
    if architecture == "mlp" and not large:  # without random labels it fits so soon that nothing sharpens
        options |= {"n": 200, "noise": 0.6}
    return Setting("", {}, architecture, options, steps=2000, eig_every=10)


def at_rate(learning_rate: float) -> str:
    """Return the name of Scalar RMSProp's run with that learning rate."""
    return "scalar-rmsprop" if learning_rate == 0.1 else f"scalar-rmsprop-rate-{learning_rate:g}"


def beta(beta2: float) -> str:
    """Return the name of Scalar RMSProp's run with that beta2, bias correction on."""
    return f"scalar-rmsprop-beta2-{beta2:g}"


def vit(ratio: float) -> str:
    """Return the name of Scalar RMSProp's run on a vision transformer at that share of the threshold."""
    return f"scalar-rmsprop-vit-{ratio:g}"
