"""The command about the machine: versions, devices and how exact their numbers are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Doctor:
    """Print versions, devices and the precision of each: what to pass on when something looks wrong."""

    def __call__(self) -> int:
        """Look and print."""
        import jax

        from ..support.devices import available
        from ..support.provenance import versions

        jax.config.update("jax_enable_x64", True)
        found = versions()
        print("versions   ", ", ".join(f"{name} {found[name]}" for name in found if name not in ("device", "commit")))
        print("commit     ", found["commit"])
        names = available()
        print("devices    ", ", ".join(f"{name} ({device.device_kind})" for name, device in names.items()))
        print("default    ", next(iter(names)))
        for name in _first_of_each(tuple(names)):
            print(f"{name:<12}", precision(name))
        return 0


def _first_of_each(names: tuple[str, ...]) -> list[str]:
    return [name for i, name in enumerate(names) if name.split(":")[0] not in {n.split(":")[0] for n in names[:i]}]


def precision(name: str) -> str:
    """Return the relative errors of matrix products on a device, in words.

    float32 is measured as accelerators do it by default, and whole, as `run` asks for.

    >>> precision("cpu").startswith("relative error of a product: float64 ")
    True
    """
    import jax
    import numpy as np

    from ..support.devices import find

    A, B = np.random.default_rng(0).normal(size=(2, 256, 256))
    exact, place = np.asarray(A.astype(np.longdouble) @ B), find(name)

    def error(dtype: str, precision: str | None) -> str:
        a, b = (jax.device_put(np.asarray(x, dtype), place) for x in (A, B))
        product = np.asarray(jax.numpy.matmul(a, b, precision=precision), np.longdouble)
        return f"{np.linalg.norm(product - exact) / np.linalg.norm(exact):.1g}"

    double = error("float64", "highest") if jax.config.read("jax_enable_x64") else "off"
    return (
        f"relative error of a product: float64 {double}, float32 {error('float32', 'highest')}, "
        f"float32 by default {error('float32', None)}"
    )
