"""A derivation as notes and as JAX code."""
