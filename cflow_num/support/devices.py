"""Where arrays live: devices by name, one problem on many devices, processes that work together, precision there.

Data are split along the axis of examples, everything else is on every device: with n weights and N examples on p
devices each one holds n weights and N/p examples, and what the devices exchange is one sum for each derivative.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .errors import InputError
from .typed import PyTree

AXIS = "examples"  # name of the one axis that devices are laid out along
DTYPES = ("float32", "float64")


def available() -> dict[str, Any]:
    """Return every device of this process by name, the default one first.

    >>> "cpu:0" in available()
    True
    """
    devices = list(jax.local_devices())
    with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave the processor out
        devices += [d for d in jax.local_devices(backend="cpu") if d not in devices]
    return {_name(d): d for d in devices}


def find(name: Any) -> Any:
    """Return the device that a text names: a platform (its first device), or a platform with a number.

    `cuda` and `rocm` are other words for `gpu`.

    **Raises:** `InputError` with the names of the devices that are there.

    >>> find("cpu") == find("cpu:0")
    True
    >>> find("gpu:7")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: device "gpu:7" is not there, ... cpu:0...
    """
    if isinstance(name, jax.Device):
        return name
    found = available()
    platform, colon, number = str(name).strip().lower().partition(":")
    platform = {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
    same = [known for known in found if known.startswith(f"{platform}:")]
    wanted = f"{platform}:{number}" if colon else next(iter(same), "")
    if wanted not in found:
        raise InputError(f'device "{name}" is not there, this machine has {", ".join(found)}: pass one of these')
    return found[wanted]


def chosen_dtype(name: Any) -> str:
    """Return the name of a floating-point type that flows run in; `InputError` for any other.

    >>> chosen_dtype("float16")
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: dtype is float16, it must be float32 or float64
    """
    text = name if isinstance(name, str) else getattr(np.dtype(name), "name", str(name))
    if text not in DTYPES:
        raise InputError(f"dtype is {text}, it must be {' or '.join(DTYPES)}")
    return text


def mesh_of(devices: Any = "all") -> Mesh:
    """Return the devices in one row.

    **Arguments:**

    - `devices`: `"all"`, how many of them, a list of devices, or a `Mesh`, whose axes are laid out as one.

    **Raises:** `InputError` where there are not so many devices.

    >>> mesh_of(1).size
    1
    """
    known = jax.devices()
    if isinstance(devices, Mesh):
        row = list(devices.devices.flat)
    elif isinstance(devices, str):
        row = known if devices == "all" else [find(devices)]
    elif isinstance(devices, (int, np.integer)) and not isinstance(devices, bool):
        if not 1 <= devices <= len(known):
            raise InputError(f"devices is {devices}, this machine has {len(known)}: pass 1 to {len(known)}, or all")
        row = known[:devices]
    else:
        row = list(devices) if isinstance(devices, Sequence) else []
    if not row or not all(isinstance(d, jax.Device) for d in row):
        raise InputError(f'devices is {devices!r}, it must be "all", a number, a list of JAX devices or a Mesh')
    return Mesh(np.array(row), (AXIS,), axis_types=(AxisType.Auto,))


def split(data: PyTree, mesh: Mesh) -> tuple[PyTree, PyTree | None]:
    """Return the data as two trees: as many examples as divide evenly, each device its share; the others everywhere.

    The second tree is None where nothing is left over. Leaves have the examples along their first axis.

    >>> shares, others = split(np.arange(3.0), mesh_of(1))
    >>> shares.shape, others
    ((3,), None)
    """
    n = jax.tree.leaves(data)[0].shape[0]
    even = n - n % mesh.size
    across, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
    if even == n:
        return jax.tree.map(lambda x: _put(x, across), data), None
    shares = jax.tree.map(lambda x: _put(x[:even], across), data)
    return shares, jax.tree.map(lambda x: _put(x[even:], whole), data)


def everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
    """Return the tree with each of its arrays on every device of the mesh."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: _put(x, whole) if isinstance(x, (jax.Array, np.ndarray)) else x, tree)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    x = np.asarray(x)  # the same in every process, each of which keeps its share
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def placement(x: Any) -> tuple:
    """Return what compiled code has to know of where an array lives: its devices, and how it is split over them.

    >>> placement(np.ones(2))
    ((), None)
    """
    sharding = getattr(x, "sharding", None)
    if sharding is None:
        return (), None
    devices = tuple(sorted((d.platform, d.id) for d in sharding.device_set))
    return devices, None if sharding.is_fully_replicated else sharding


def describe(x: jax.Array) -> str:
    """Return where an array lives, in words.

    >>> import jax.numpy as jnp
    >>> describe(jnp.ones(2))
    'cpu:0'
    """
    devices = sorted(x.sharding.device_set, key=lambda d: d.id)
    if len(devices) == 1:
        return _name(devices[0])
    processes = len({d.process_index for d in devices})
    return f"{len(devices)} x {devices[0].platform}" + (f" in {processes} processes" if processes > 1 else "")


@contextlib.contextmanager
def default(name: str | None) -> Iterator[None]:
    """Make new arrays on the device that is named, where one is; raises `InputError` as `find` does.

    >>> with default("cpu"):
    ...     describe(jax.numpy.ones(2))
    'cpu:0'
    """
    with contextlib.nullcontext() if name is None else jax.default_device(find(name)):
        yield


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Keep float32 products whole: accelerators cut their factors short by default, to three decimal digits.

    A precision that the user has set stays as it is, and on processors nothing changes.
    """
    if jax.default_backend() == "cpu" or jax.config.read("jax_default_matmul_precision") is not None:
        yield
    else:
        with jax.default_matmul_precision("highest"):
            yield


def start_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of one computation, each with devices of its own.

    The address of the first process, how many there are and which one this is are read from JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else from the cluster's own (Slurm, Open MPI, Kubernetes, TPU). Must come
    before any other use of JAX.

    **Raises:** `InputError` where the environment does not say enough, or says something else than numbers.

    >>> start_processes({"JAX_NUM_PROCESSES": "two"})
    Traceback (most recent call last):
    cflow_num.support.errors.InputError: JAX_NUM_PROCESSES is "two", it must be a whole number
    """
    numbers: dict[str, int | None] = {"JAX_NUM_PROCESSES": None, "JAX_PROCESS_ID": None}
    for name in numbers:
        if name in environment:
            if not environment[name].isdecimal():
                raise InputError(f'{name} is "{environment[name]}", it must be a whole number')
            numbers[name] = int(environment[name])
    try:
        jax.distributed.initialize(
            environment.get("JAX_COORDINATOR_ADDRESS"), numbers["JAX_NUM_PROCESSES"], numbers["JAX_PROCESS_ID"]
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the processes cannot find each other ({str(error).splitlines()[0]}): set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID in each, or start them under Slurm or Open MPI"
        ) from error


def _name(device: Any) -> str:
    return f"{device.platform}:{device.id}"


def available_memory() -> int | None:
    """Return the bytes of memory that are left where arrays are made by default; None where nobody knows."""
    stats = next(iter(jax.numpy.zeros(()).devices())).memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)
