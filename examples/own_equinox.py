"""An equinox model of your own: from the loss function to the verdict on an optax optimizer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import cflow_num as cn
import cflow_sym as cs

jax.config.update("jax_enable_x64", True)


def loss(model, data):
    """Return half the mean squared distance from one-hot targets."""
    images, labels = data
    return jnp.mean(jnp.sum((jax.vmap(model)(images) - jax.nn.one_hot(labels, 10)) ** 2, axis=1)) / 2


def main(steps=300):
    """Return the run."""
    images, labels = load_digits(return_X_y=True)
    model = eqx.nn.MLP(64, 10, 20, 1, activation=jnp.tanh, key=jax.random.key(0))
    problem = cn.Problem(loss, model, data=(images[:200] / 16, labels[:200]), examples=True)
    rmsprop = cs.from_optax(optax.rmsprop)
    return cn.run(problem, rmsprop, {"learning_rate": 0.002, "beta2": 0.99, "epsilon": 1e-8}, steps=steps, warm_start=5)


if __name__ == "__main__":
    print(main().compare())
