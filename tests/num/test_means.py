"""Losses that are summed in parts: means over examples are, and nothing else is, whichever way the parts come about."""

import jax.numpy as jnp
import numpy as np
import pytest

import cflow_num as cn
from cflow_num.loss import means
from cflow_num.loss import parts as chunks
from cflow_num.loss.parts import Chunks
from cflow_num.support.errors import InputError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 5, 3)), RNG.normal(size=(12, 5))
LENGTHS = np.array([5, 5, 5, 2, 5, 1, 3, 4, 1, 2, 5, 4])  # of sequences; the first three are whole
MASK = (np.arange(5) < LENGTHS[:, None]) * 1.0
START = jnp.array([0.5, -1.0, 2.0])
LABELS = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1])
WEIGHTS = jnp.array([1.0, 3.0])  # of classes


def errors(w, d):
    return (d["x"] @ w - d["y"]) ** 2


def ratio(w, d):
    return jnp.sum(d["m"] * errors(w, d)) / jnp.sum(d["m"])


def of_classes(w, d):
    weights = WEIGHTS[d["labels"]]
    return jnp.sum(weights * errors(w, d).mean(1)) / jnp.sum(weights)


def normalized(w, d):
    out = d["x"] @ w
    return jnp.mean(((out - out.mean()) / out.std() - d["y"]) ** 2)


def contrasts(w, d):
    out = jnp.tanh((d["x"] @ w).mean(1))
    return jnp.mean((out[:, None] - out[None]) ** 2)


NO_MEANS = {
    "a ratio of sums": ratio,
    "class weights": of_classes,
    "a batch norm": normalized,
    "a maximum": lambda w, d: jnp.max(errors(w, d).sum(1)),
    "pairs of examples": contrasts,
    "neighbours": lambda w, d: jnp.mean(jnp.diff(d["x"].mean(1) @ w) ** 2),
    "a fixed number of examples": lambda w, d: jnp.sum(errors(w, d)) / 60,
    "a root of a mean": lambda w, d: jnp.sqrt(jnp.mean(errors(w, d))),
    "a sum beside a mean": lambda w, d: jnp.mean(errors(w, d)) + 1e-6 * jnp.sum(errors(w, d)),
    "a start where nothing differs": lambda w, d: jnp.mean(errors(START, d)) + ratio(w, d) - ratio(START, d),
}
MEANS = {
    "weights with mean one": lambda w, d: jnp.mean(d["each"][:, None] * errors(w, d)),
    "a mean and a penalty": lambda w, d: jnp.mean(errors(w, d)) + 0.1 * w @ w,
    "a captured array": lambda w, d: jnp.mean(errors(jnp.asarray(X[0, :3]) @ w, d)),
}


def problem(loss, start=START, mask=MASK, dtype="float64"):
    data = {"x": X, "y": Y, "m": mask, "each": LENGTHS / LENGTHS.mean()}
    data = {name: jnp.asarray(x, dtype) for name, x in data.items()} | {"labels": jnp.asarray(LABELS)}
    return cn.Problem(loss, jnp.asarray(start, dtype), data=data, examples=True)


@pytest.fixture(params=["together", "neighbours"])
def either_way(request, monkeypatch):
    """Compare with the whole, and as where that does not fit into memory."""
    if request.param == "neighbours":
        monkeypatch.setattr(means, "_needed", lambda whole: 2**63)


@pytest.mark.filterwarnings("ignore::cflow_num.support.errors.KinkWarning")  # of the maximum
@pytest.mark.parametrize("name", NO_MEANS)
def test_what_is_no_mean_is_not_cut_into_parts(name, either_way):
    whole = problem(NO_MEANS[name])
    assert np.isfinite(float(whole.value(whole.w0)))
    with pytest.raises(InputError, match="it must be a mean over examples") as error:
        whole.in_chunks(4)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::cflow_num.support.errors.PrecisionWarning")
@pytest.mark.parametrize("name", MEANS)
def test_means_are(name, either_way):
    for dtype, rtol in (("float64", 1e-13), ("float32", 1e-5)):
        whole = problem(MEANS[name], dtype=dtype)
        cut = whole.in_chunks(4)
        assert cut.chunks.examples == 4
        assert float(cut.value(whole.w0)) == pytest.approx(float(whole.value(whole.w0)), rel=rtol)


@pytest.mark.parametrize("name", ["a batch norm", "pairs of examples", "a root of a mean"])
def test_weights_that_start_at_zero_hide_nothing(name):
    loss = {
        "a batch norm": lambda w, d: jnp.mean(errors(w, d)) + jnp.var(d["x"] @ w),
        "pairs of examples": contrasts,
        "a root of a mean": lambda w, d: jnp.mean(jnp.tanh(d["x"] @ w)) ** 2,
    }[name]
    with pytest.raises(InputError, match="it must be a mean over examples"):
        problem(loss, start=np.zeros(3)).in_chunks(4)


def test_a_loss_that_is_infinite_a_little_aside_hides_nothing():
    """From zero weights the second place is as far off as 0.01, where these logarithms are nan."""
    near = lambda w, d: jnp.mean(jnp.log1p(-1e6 * (d["x"] @ w) ** 2)) + jnp.var(d["x"] @ w)  # noqa: E731
    with pytest.raises(InputError, match="it must be a mean over examples"):
        problem(near, start=np.zeros(3)).in_chunks(4)


def test_the_message_has_both_losses():
    e = (X @ np.asarray(START) - Y) ** 2
    together = (MASK * e).sum() / MASK.sum()
    parts = np.mean([(MASK[i : i + 4] * e[i : i + 4]).sum() / MASK[i : i + 4].sum() for i in (0, 4, 8)])
    assert float(problem(ratio).value(START)) == pytest.approx(together, rel=1e-14)
    with pytest.raises(InputError, match=f"is {together:.6g} on examples together and {parts:.6g} as the mean"):
        problem(ratio).in_chunks(4)


def test_a_start_at_the_optimum_is_no_excuse_to_refuse():
    best = np.linalg.lstsq(X.reshape(60, 3), Y.reshape(60), rcond=None)[0]
    whole = problem(lambda w, d: jnp.mean(errors(w, d)), start=best)
    assert float(jnp.linalg.norm(whole.gradient(whole.w0))) < 1e-14
    assert whole.in_chunks(5).chunks.examples == 5


def test_a_part_without_any_weight_is_no_number():
    mask = MASK.copy()
    mask[4:8] = 0
    with pytest.raises(InputError, match="and nan as the mean over their parts"):
        problem(ratio, mask=mask).in_chunks(4)


def test_whatever_cuts_it_asks(monkeypatch):
    """A budget, and a budget of a run; nobody asks where nothing is cut."""
    whole = problem(ratio)
    monkeypatch.setattr(chunks, "choose", lambda *_: (Chunks(4, 2), 0))
    with pytest.raises(InputError, match="it must be a mean over examples"):
        whole.within("1MB")
    with pytest.raises(InputError, match="it must be a mean over examples"):
        cn.run(whole, "gradient_descent", {"learning_rate": 0.01}, steps=2, memory="1MB", quiet=True)
    assert whole.in_chunks(None, 2).chunks.vectors == 2
    assert whole.in_chunks(12).chunks.examples == 12


def test_a_problem_that_is_cut_for_the_caches_asks(monkeypatch):
    monkeypatch.setattr(chunks, "fastest", lambda *_: Chunks(4, 1))
    assert problem(MEANS["a mean and a penalty"]).chunks.examples == 4
    with pytest.raises(InputError, match="it must be a mean over examples"):
        problem(ratio)


@pytest.mark.filterwarnings("ignore::cflow_num.support.errors.KinkWarning")  # of the maximum
def test_a_run_asks_again_where_the_loss_has_changed():
    share = [0.0]
    data = {"x": X, "y": Y}
    cut = cn.Problem(
        lambda w, d: jnp.mean(errors(w, d)) + share[0] * jnp.max(errors(w, d)), START, data=data, examples=True
    ).in_chunks(4)
    assert cut.checked() is cut
    share[0] = 1.0
    with pytest.raises(InputError, match="it must be a mean over examples"):
        cn.run(cut, "gradient_descent", {"learning_rate": 0.01}, steps=2, quiet=True)
