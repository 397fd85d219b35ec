"""A flax model of your own: from the loss function to the verdict on an optax optimizer (needs `pip install flax`)."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import cflow_num as cn
import cflow_sym as cs

jax.config.update("jax_enable_x64", True)


class Net(nnx.Module):
    """A network with one hidden layer."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 20, param_dtype=float, rngs=rngs)
        self.out = nnx.Linear(20, 10, param_dtype=float, rngs=rngs)

    def __call__(self, x):
        """Return the outputs."""
        return self.out(nnx.gelu(self.hidden(x)))


def main(steps=300):
    """Return the run."""
    images, labels = load_digits(return_X_y=True)
    graph, params = nnx.split(Net(nnx.Rngs(0)))

    def loss(params, data):
        outputs = nnx.merge(graph, params)(data[0])
        return jnp.mean(jnp.sum((outputs - jax.nn.one_hot(data[1], 10)) ** 2, axis=1)) / 2

    problem = cn.Problem(loss, params, data=(images[:200] / 16, labels[:200]), examples=True)
    rmsprop = cs.from_optax(optax.rmsprop)
    return cn.run(problem, rmsprop, {"learning_rate": 0.002, "beta2": 0.99, "epsilon": 1e-8}, steps=steps, warm_start=5)


if __name__ == "__main__":
    print(main().compare())
