"""The compiled part of jaxlib, which comes without types: what JAX's own annotations name of it."""

from typing import Any

class Device: ...

def __getattr__(name: str) -> Any: ...
