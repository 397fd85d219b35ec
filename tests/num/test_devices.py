"""Devices, floating-point types, data split over devices: the same numbers wherever they are computed."""

import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
from cflow_num.cli.main import main
from cflow_num.flows.base import FlowState
from cflow_num.flows.central import CentralFlow
from cflow_num.flows.discrete import DiscreteOptimizer
from cflow_num.linalg.eigenpairs import start_block
from cflow_num.optimizer.hyperparameters import as_arrays, resolve
from cflow_num.running.process import Process
from cflow_num.running.warm_start import warm_started
from cflow_num.support.devices import find, mesh_of, placement, start_processes
from cflow_num.support.errors import InputError

# 60 examples on 8 devices: seven each, four left over. Eight steps at the edge.
SHARDED = """
import jax
jax.config.update("jax_enable_x64", True)
import equinox as eqx
import numpy as np
import cflow_num as cn

problem = cn.problem("digits-mlp", n=60, width=3)
split = problem.sharded()
whole, over = ([x for x in jax.tree.leaves(split) if isinstance(x, jax.Array) and len(x) == n] for n in (56, 4))
assert split.mesh.size == 8 and len(whole) == len(over) == 2
assert all(len(x.sharding.device_set) == 8 for x in jax.tree.leaves(split) if isinstance(x, jax.Array))
assert {s.data.shape[0] for s in whole[0].addressable_shards} == {7}
for a, b in zip(problem.data, split.data):
    np.testing.assert_array_equal(a, b)
V = jax.random.normal(jax.random.key(0), (problem.n_weights, 4))
expected, parts = (
    eqx.filter_jit(lambda p, V: p.hessian_vectors(p.w0, V))(p, V) for p in (problem, split.in_chunks(3, 3))
)
np.testing.assert_allclose(parts, expected, rtol=0, atol=1e-13)
settings = dict(steps=8, processes=("central",), integrator="anchored-full", quiet=True)
runs = [cn.run(p, "gradient_descent", {"learning_rate": 1.1}, **settings) for p in (problem, split)]
whole, shared = (run.tree["central"] for run in runs)
assert runs[1].config["device"] == "8 x cpu" and not runs[1].reason
assert float(whole["sigma_eigenvalues"].max()) > 1e-4, whole["effective_eigenvalues"].values
for name in ("loss", "gradient_norm", "effective_eigenvalues", "sigma_eigenvalues", "predicted_loss"):
    a, b = whole[name].values, shared[name].values
    error = np.nanmax(np.abs(a - b)) / np.nanmax(np.abs(a))
    assert error < 1e-10, (name, error)
    print(name, error)
def ratio(w, d):
    return jax.numpy.sum(d["m"] * (d["x"] @ w) ** 2) / jax.numpy.sum(d["m"])
m = np.arange(60.0)
for build in (
    lambda: cn.problem("digits-mlp", n=5, width=3),
    lambda: cn.Problem(ratio, np.ones(2), data={"x": np.sin(np.outer(m, (1, 2))), "m": m}, examples=True),
):
    try:
        build().sharded()
    except cn.InputError as error:
        print(error)
"""


def test_a_problem_on_eight_devices_has_the_same_central_flow():
    flags = os.environ | {"JAX_PLATFORMS": "cpu"}
    flags["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "5 examples cannot be split over 8 devices: use at most 5 of them" in done.stdout
    assert "it must be a mean over examples" in done.stdout


def test_two_processes_on_one_machine_share_a_run(tmp_path):
    """Examples split over processes that meet on loopback: one of them writes, and the numbers are those of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    split = ["--distributed", "--out", str(tmp_path), "--quiet", "--processes", "discrete", "central", "--steps", "8"]
    asked = ["--problem", "digits-mlp:n=60,width=3", "--optimizer", "gradient_descent", "--learning-rate", "1.1"]
    command = [sys.executable, "-m", "cflow_num.cli", "run", *asked, *split, "--integrator", "anchored-full"]
    meeting = os.environ | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(
            command,
            env=meeting | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    for process in both:
        assert process.wait(timeout=300) == 0, process.stderr.read()
        process.stderr.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "run.nc"]
    shared = cn.load(tmp_path / "run.nc")
    assert shared.config["device"] == "2 x cpu in 2 processes"
    alone = cn.run(
        cn.problem("digits-mlp", n=60, width=3), "gradient_descent", {"learning_rate": 1.1}, steps=8,
        processes=("discrete", "central"), integrator="anchored-full", quiet=True,
    )  # fmt: skip
    assert float(alone.tree["central"]["sigma_eigenvalues"].max()) > 1e-4  # it is at the edge
    for name, error in (("discrete", 1e-12), ("central", 1e-7)):
        np.testing.assert_allclose(shared.tree[name]["loss"], alone.tree[name]["loss"], rtol=error)


def test_programs_tell_how_arrays_are_split():
    one = cn.problem("digits-mlp", n=9, width=2)
    split = one.sharded(1)
    assert placement(jax.tree.leaves(split.data)[0])[0] == (("cpu", 0),)
    assert split.on("cpu").mesh is None
    assert float(split.value(split.w0)) == pytest.approx(float(one.value(one.w0)), rel=1e-14)


def float32_flow():
    problem = cn.problem("digits-mlp", n=20, width=3).astype("float32")
    optimizer, values = resolve("scalar_rmsprop", {"learning_rate": 0.1, "beta2": 0.9})
    hp = as_arrays(optimizer, values, problem)
    return CentralFlow(problem, hp, optimizer, 2), FlowState(problem.w0, optimizer.initial_state(problem.w0, hp))


def test_float32_stays_float32_where_64_bits_are_on():
    """Under strict promotion nothing is widened silently, and nothing the size of weights or data has 64 bits."""
    flow, y = float32_flow()
    with jax.numpy_dtype_promotion("strict"):
        traced = jax.make_jaxpr(lambda y, V: flow.linearize(y, V))(y, start_block(y.w.size, 6, y.w.dtype))
        observed = jax.make_jaxpr(lambda y, V: flow.observe(y, V, 2))(y, start_block(y.w.size, 6, y.w.dtype))
    for program in (traced, observed):
        assert f"f32[{y.w.size}" in str(program)
        wide = {int(d) for shape in re.findall(r"f64\[([\d,]+)\]", str(program)) for d in shape.split(",")}
        assert max(wide, default=0) < 10


def test_a_float32_run_stays_float32():
    flow, _ = float32_flow()
    hp = {"learning_rate": 0.1, "beta2": 0.9}
    with jax.numpy_dtype_promotion("strict"):
        run = cn.run(flow.problem, "scalar_rmsprop", hp, steps=4, warm_start=2, processes=("central",), quiet=True)
    assert not run.reason
    assert run.config["dtype"] == "float32"


def test_types_of_a_problem():
    problem = cn.problem("digits-mlp", n=9, width=2)
    half = problem.astype(jnp.float32)
    assert {x.dtype.name for x in jax.tree.leaves((half.w0, half.data))} == {"float32"}
    assert half.astype("float32") is half
    back = half.astype(np.float64)
    assert float(back.value(back.w0)) == pytest.approx(float(problem.value(problem.w0)), rel=1e-6)
    captured = jnp.ones(2)
    with pytest.raises(InputError, match="pass them as data"):
        cn.Problem(lambda w: jnp.sum(captured * w), jnp.ones(2)).astype("float32")


def weights(problem, name, hp, steps, warm_start):
    """Return the path of the central flow: the start and the weights at each step."""
    optimizer, values = resolve(name, hp)
    hp = as_arrays(optimizer, values, problem)
    process = Process("central", problem, optimizer, hp)
    start = warm_started(DiscreteOptimizer(problem, hp, optimizer), warm_start)
    carry, path = process.start(start.flows, start.before)[0], [np.asarray(start.flows.w, float)[None]]
    for _ in range(steps // 10):
        carry, records = process.advance(carry)
        assert process.failure(records) is None
        assert {x.dtype for x in jax.tree.leaves(records) if x.dtype.kind == "f"} == {problem.w0.dtype}
        path.append(np.asarray(records.w, float))
    return np.concatenate(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "hp", "steps", "warm_start"),
    [
        ("gradient_descent", {"learning_rate": 0.8}, 800, 0),
        ("scalar_rmsprop", {"learning_rate": 0.1, "beta2": 0.99}, 500, 5),
    ],
)
def test_float32_follows_float64(name, hp, steps, warm_start):
    problem = cn.problem("digits-mlp")
    double, single = (weights(p, name, hp, steps, warm_start) for p in (problem, problem.astype("float32")))
    travelled = np.linalg.norm(double[-1] - double[0])
    error = np.linalg.norm(double - single, axis=1).max() / travelled
    assert error < 1e-2
    assert error < 1e-3, "measured: 2.6e-5 and 2.2e-6"


BAD = {
    "device": (lambda: find("gpu:7"), 'device "gpu:7" is not there, this machine has cpu:0'),
    "platform": (lambda: find("npu"), "this machine has cpu:0"),
    "too many": (lambda: mesh_of(10_000), "devices is 10000, this machine has"),
    "none": (lambda: mesh_of(0), "devices is 0"),
    "not devices": (lambda: mesh_of([1, 2]), "a list of JAX devices or a Mesh"),
    "no mean over examples": (lambda: cn.problem("ramp").sharded(1), "cannot be split over devices"),
    "float16": (lambda: cn.problem("ramp").astype("float16"), "dtype is float16, it must be float32 or float64"),
    "a process without number": (lambda: start_processes({"JAX_PROCESS_ID": "x"}), 'JAX_PROCESS_ID is "x"'),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    call, says = BAD[name]
    with pytest.raises(InputError) as error:
        call()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


RUN = ["run", "--quiet", "--steps", "3", "--problem", "ramp", "--optimizer", "gradient_descent"]
RUN += ["--learning-rate", "0.1"]
CLI = {
    ("--dtype", "float16"): "dtype is float16, it must be float32 or float64",
    ("--device", "tpu"): 'device "tpu" is not there, this machine has cpu:0',
    ("--devices", "all"): "pass examples=True",
    ("--devices", "some"): 'device "some" is not there',
    ("--device", "cpu", "--devices", "all"): "leave it out with --devices",
    ("--memory", "much"): 'memory is "much"',
    ("--memory", "1B"): "at a time need",
}


@pytest.mark.parametrize("flags", CLI, ids=" ".join)
def test_the_command_line_refuses_in_one_sentence(flags, tmp_path, capsys):
    assert main([*RUN, *flags, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cflow: ")
    assert CLI[flags] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_doctor_and_a_run_on_a_named_device(tmp_path, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "cpu:0 " in out
    assert "relative error of a product: float64" in out
    assert main([*RUN, "--device", "cpu:0", "--memory", "1MB", "--processes", "discrete", "--out", str(tmp_path)]) == 0
    config = cn.load(tmp_path / "run.nc").config
    assert (config["device"], config["memory_budget"], config["vectors_at_once"]) == ("cpu:0", "1MB", 8)
