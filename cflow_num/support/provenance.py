"""What a run depends on beside its input: versions, device, commit."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import jax

DISTRIBUTION = "cflow-jax"  # what pip calls cflow


def versions() -> dict[str, str]:
    """Return the versions that a run depends on, the device, and the commit where cflow runs from a checkout.

    >>> list(versions())[:3]
    ['cflow', 'jax', 'jaxlib']
    """
    packages = ("jax", "jaxlib", "diffrax", "equinox", "numpy", "xarray")
    found = {"cflow": own_version()} | {name: metadata.version(name) for name in packages}
    device = jax.devices()[0]
    return found | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": f"{device.platform} {device.device_kind}",
        "commit": _commit(),
    }


def own_version() -> str:
    """Return the version of cflow, or "unknown" where it runs from a checkout that is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    head = Path(__file__).resolve().parents[2] / ".git" / "HEAD"
    try:
        text = head.read_text().strip()
        return (head.parent / text[5:]).read_text().strip() if text.startswith("ref: ") else text
    except OSError:
        return "unknown"
