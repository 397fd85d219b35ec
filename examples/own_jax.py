"""A network and a loss of your own in plain JAX: from the loss function to the verdict on an optax optimizer."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import cflow_num as cn
import cflow_sym as cs

jax.config.update("jax_enable_x64", True)


def outputs(params, data):
    """Return the outputs of a network with one hidden layer."""
    return jnp.tanh(data[0] @ params["in"] + params["bias"]) @ params["out"]


def loss(params, data):
    """Return half the mean squared distance from one-hot targets."""
    return jnp.mean(jnp.sum((outputs(params, data) - jax.nn.one_hot(data[1], 10)) ** 2, axis=1)) / 2


def problem(width=20, seed=0):
    """Return the problem; on the command line it is `--problem examples/own_jax.py:width=10`."""
    images, labels = load_digits(return_X_y=True)
    a, b = jax.random.split(jax.random.key(seed))
    params = {
        "in": jax.random.normal(a, (64, width)) / 8,
        "bias": jnp.zeros(width),
        "out": jax.random.normal(b, (width, 10)) / width**0.5,
    }
    return cn.Problem(loss, params, data=(images[:200] / 16, labels[:200]), examples=True, outputs=outputs)


def main(steps=300):
    """Return the run."""
    rmsprop = cs.from_optax(optax.rmsprop)
    values = {"learning_rate": 0.002, "beta2": 0.99, "epsilon": 1e-8}
    return cn.run(problem(), rmsprop, values, steps=steps, warm_start=5)


if __name__ == "__main__":
    print(main().compare())
