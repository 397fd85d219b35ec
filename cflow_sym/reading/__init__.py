"""Optimizers from elsewhere: TOML and Python files, programs of JAX and optax."""
