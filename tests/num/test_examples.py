"""The examples that bring a model of their own run, for a few steps."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@pytest.mark.parametrize("name", ["own_jax", "own_equinox", "own_flax"])
def test_a_model_of_your_own(name):
    if name == "own_flax":
        pytest.importorskip("flax")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.main(steps=3)
    assert run.reason == ""
    assert run.tree["central"].sizes["step"] >= 3
