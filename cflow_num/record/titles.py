"""What a run is called: optimizer, problem, learning rate, steps; beside others also what tells it apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Run

SETTINGS = ("warm_start", "integrator", "onset", "average_start", "closure_step", "dtype", "eig_every")


def title(run: Run) -> str:
    """Return optimizer, problem, learning rate and steps in one line."""
    config = run.config
    hyperparameters = config.get("hyperparameters", {})
    rate = hyperparameters.get("learning_rate")
    shown = f", learning rate {rate:g}" if isinstance(rate, (int, float)) else ""
    return f"{config.get('title') or config['optimizer']} on {config['problem']}{shown}, {config['steps']} steps"


def titles(runs: Sequence[Run]) -> list[str]:
    """Return the title of every run, no two alike: where some are the same, with what tells these apart.

    That are hyperparameters, switches, what the problem's description says, settings, and where nothing else differs
    a number.
    """
    own, details = [title(run) for run in runs], [_details(run.config) for run in runs]
    told: list[str] = []
    for name, mine in zip(own, details, strict=True):
        alike = [others for same, others in zip(own, details, strict=True) if same == name]
        told.append(", ".join([name, *(detail for detail in mine if any(detail not in others for others in alike))]))
    counted = [told[:i].count(name) + 1 for i, name in enumerate(told)]
    return [f"{name}, run {n}" if told.count(name) > 1 else name for name, n in zip(told, counted, strict=True)]


def problem_of(run: Run) -> tuple[str, str]:
    """Return name and description of a run's problem: runs that agree in both are of one problem."""
    return run.config["problem"], run.config.get("problem_description", "")


def _details(config: dict[str, Any]) -> list[str]:
    """Return all that a title may be told apart by, one thing a text."""
    found = [f"{_words(name)} {x}" for name, x in config.get("hyperparameters", {}).items()]
    found += [_words(name) for name in config.get("switches", ())]
    found += [part for part in config.get("problem_description", "").split(", ") if part]
    if "n_weights" in config:
        found.append(f"{config['n_weights']} weights")
    return found + [f"{_words(name)} {config[name]}" for name in SETTINGS if name in config]


def _words(name: str) -> str:
    return name.replace("_", " ")
