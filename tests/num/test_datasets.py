"""Data sets: what they hold, CIFAR-10 from small files in its format, refusals of what is damaged."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.problems.datasets import DATASETS, cifar10, dataset
from cflow_num.problems.datasets.base import Images, Tokens, noisy
from cflow_num.support.errors import InputError


def refused(call, *says):
    with pytest.raises(InputError) as error:
        call()
    for text in says:
        assert text in str(error.value)
    assert "\n" not in str(error.value)


@given(st.integers(1, 300))
def test_sorting_asks_for_the_sorted_sequence(n):
    data = dataset("sorting", n=n)
    assert data.inputs == Tokens(15, 4, 8)
    question, given_answers = data.x[:, :8], data.x[:, 8:]
    np.testing.assert_array_equal(np.sort(question), data.y)
    np.testing.assert_array_equal(given_answers, data.y[:, :-1])  # the next token is asked for
    assert {0, 1, 2, 3} >= set(np.unique(data.x))
    np.testing.assert_array_equal(data.x, dataset("sorting", n=300).x[:n])


def test_digits_are_centred():
    data = dataset("digits", n=100)
    assert (data.inputs, data.x.shape, data.classes) == (Images(8, 8, 1), (100, 8, 8, 1), 10)
    np.testing.assert_allclose(data.x.mean(axis=0), 0, atol=1e-12)


@given(st.integers(2, 12), st.floats(0, 1), st.sampled_from([(50,), (20, 3)]))
def test_noise_replaces_no_more_than_its_share(classes, share, shape):
    labels = np.zeros(shape, dtype=int)
    changed = noisy(labels, share, classes)
    assert np.count_nonzero(changed) <= round(share * labels.size)
    assert changed.max() < classes
    assert not labels.any()


def records(labels, seed=0):
    """Return the bytes of images with these labels, in the format of CIFAR-10."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(len(labels), 3072), dtype=np.uint8)
    return np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1).tobytes()


BATCHES = {f"data_batch_{i}.bin": records([7, *range(4), 9, *range(4)], seed=i) for i in range(1, 6)}


@pytest.fixture
def folder(tmp_path):
    for name, content in BATCHES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def archive(tmp_path, monkeypatch):
    return packed(tmp_path, monkeypatch, {f"cifar-10-batches-bin/{name}": content for name, content in BATCHES.items()})


def packed(folder, monkeypatch, files):
    """Write an archive of these files (None for a link) and take its checksum for the official one."""
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
                file.addfile(member)
            else:
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_cifar_images_are_as_they_were_written(folder):
    data = cifar10.cifar10(n=10, folder=str(folder))
    assert (data.inputs, data.classes) == (Images(32, 32, 3), 4)
    assert np.bincount(data.y).tolist() == [3, 3, 2, 2]
    raw = np.frombuffer(BATCHES["data_batch_1.bin"], np.uint8).reshape(-1, 3073)
    np.testing.assert_array_equal(data.y[:8], [0, 1, 2, 3, 0, 1, 2, 3])
    image = data.x[0] * np.array(cifar10.DEVIATION) + np.array(cifar10.MEAN)  # its record is the second
    for channel in range(3):
        plane = raw[1, 1 + 1024 * channel : 1 + 1024 * (channel + 1)].reshape(32, 32)
        np.testing.assert_allclose(image[..., channel] * 255, plane, atol=1e-9)


def test_the_archive_holds_what_the_files_hold(folder, archive):
    from_folder = cifar10.cifar10(n=30, folder=str(folder))
    for name in BATCHES:
        (folder / name).unlink()
    for place in (folder, archive):
        from_archive = cifar10.cifar10(n=30, folder=str(place))
        np.testing.assert_array_equal(from_archive.x, from_folder.x)
        np.testing.assert_array_equal(from_archive.y, from_folder.y)
    assert sorted(path.name for path in folder.iterdir()) == [archive.name]  # nothing was unpacked


def test_the_folder_may_come_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv(cifar10.VARIABLE, str(folder))
    problem = cn.problem("cnn", data="cifar10", n=8)
    assert problem.data[0].shape == (8, 32, 32, 3)
    assert "CIFAR-10" in problem.description


def test_a_download_is_checked_and_kept(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "URL", archive.as_uri())
    target = tmp_path / "new"
    assert len(cifar10.cifar10(n=8, folder=str(target), download=True).y) == 8
    assert [path.name for path in target.iterdir()] == [archive.name]
    archive.write_bytes(b"something else")
    assert len(cifar10.cifar10(n=8, folder=str(target), download=True).y) == 8  # it is there: not fetched again
    other = tmp_path / "other"
    with pytest.raises(InputError, match="md5"):
        cifar10.cifar10(n=8, folder=str(other), download=True)
    assert not list(other.iterdir())
    monkeypatch.setattr(cifar10, "URL", (tmp_path / "missing").as_uri())
    with pytest.raises(InputError, match="cannot download"):
        cifar10.cifar10(n=8, folder=str(other), download=True)


def cut(folder):
    path = folder / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])


def of_the_python_version(folder):
    (folder / "data_batch_1.bin").rename(folder / "data_batch_1")


DAMAGE = {
    "truncated": (cut, "records of 3073"),
    "empty": (lambda folder: (folder / "data_batch_1.bin").write_bytes(b""), "has 0 bytes"),
    "another data set": (lambda folder: (folder / "data_batch_1.bin").write_bytes(records([0, 17])), "label 17"),
    "a batch is missing": (lambda folder: (folder / "data_batch_2.bin").unlink(), "data_batch_2.bin"),
    "python version": (of_the_python_version, "Python version"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_refused_in_one_sentence(folder, name):
    change, says = DAMAGE[name]
    change(folder)
    refused(lambda: cifar10.cifar10(n=12, folder=str(folder)), says)


@pytest.mark.parametrize("length", [0, 5, 2000])
def test_an_incomplete_archive_is_refused_with_the_checksum_it_must_have(archive, length):
    archive.write_bytes(archive.read_bytes()[:length])
    refused(lambda: cifar10.cifar10(n=8, folder=str(archive)), cifar10.MD5, cifar10.URL)


def test_a_damaged_archive_with_the_right_checksum(tmp_path, monkeypatch):
    path = packed(tmp_path, monkeypatch, {f"cifar-10-batches-bin/{name}": content for name, content in BATCHES.items()})
    content = path.read_bytes()[:3000]
    path.write_bytes(content)
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(content).hexdigest())
    refused(lambda: cifar10.cifar10(n=8, folder=str(tmp_path)), "is damaged")


def test_names_in_the_archive_cannot_lead_out_of_it(tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    good = {f"cifar-10-batches-bin/{name}": content for name, content in BATCHES.items()}
    packed(inner, monkeypatch, {"../evil.bin": b"x", "/evil.bin": b"x"} | good)
    assert len(cifar10.cifar10(n=8, folder=str(inner)).y) == 8
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cifar-10-binary.tar.gz", "inner"]
    packed(inner, monkeypatch, {"cifar-10-batches-bin/data_batch_1.bin": None})
    refused(lambda: cifar10.cifar10(n=8, folder=str(inner)), "is not a file")
    packed(inner, monkeypatch, {"../data_batch_1.bin": BATCHES["data_batch_1.bin"]})
    refused(lambda: cifar10.cifar10(n=8, folder=str(inner)), "has no cifar-10-batches-bin/data_batch_1.bin")


def test_cifar_without_data_says_what_to_do(tmp_path, monkeypatch, folder):
    monkeypatch.delenv(cifar10.VARIABLE, raising=False)
    refused(lambda: cifar10.cifar10(), "CFLOW_DATA", "download=true")
    refused(lambda: cifar10.cifar10(folder=str(tmp_path / "no")), "there is no", cifar10.URL)
    refused(lambda: cifar10.cifar10(n=1000, folder=str(folder)), "n is 1000", "40 of them")
    refused(lambda: cifar10.cifar10(n=3, folder=str(folder)), "at least 4")


GOOD = {
    "vectors": ({"x": np.ones((6, 3)), "y": np.arange(6) % 2}, "mlp", (6, 2)),
    "targets": ({"x": np.ones((6, 3)), "y": np.ones((6, 5))}, "mlp", (6, 5)),
    "images": ({"x": np.ones((6, 8, 8)), "y": np.arange(6) % 3}, "cnn", (6, 3)),
    "bytes": ({"x": np.full((6, 8, 8, 3), 255, np.uint8), "y": np.arange(6) % 3}, "cnn", (6, 3)),
    "tokens": ({"x": np.arange(24).reshape(6, 4) % 5, "y": np.arange(6) % 3}, "lstm", (6, 1, 3)),
    "answers": ({"x": np.arange(24).reshape(6, 4) % 5, "y": np.ones((6, 2), int)}, "mlp", (6, 2, 2)),
}


@pytest.mark.parametrize("name", GOOD)
def test_arrays_of_a_file(name, tmp_path):
    arrays, network, outputs = GOOD[name]
    np.savez(tmp_path / "a.npz", **arrays)
    problem = cn.problem(network, data="npz", path=str(tmp_path / "a.npz"))
    assert problem.outputs(problem.w0).shape == outputs
    assert float(np.max(problem.data[0])) == (1.0 if name not in ("tokens", "answers") else 4)
    assert dataset("npz", path=str(tmp_path / "a.npz"), n=2).x.shape[0] == 2


X, Y = np.ones((6, 3)), np.zeros(6, int)
BAD = {
    "no x": ({"y": Y}, "no array x"),
    "no y": ({"x": X, "z": Y}, "arrays are x, z"),
    "objects": ({"x": np.array([{}] * 6), "y": Y}, "cannot be read"),
    "complex": ({"x": X * 1j, "y": Y}, "complex"),
    "text": ({"x": X, "y": np.array(list("abcdef"))}, "real numbers"),
    "scalar": ({"x": X, "y": np.array(3)}, "shape ()"),
    "lengths": ({"x": X, "y": Y[:5]}, "6 inputs x and 5 labels"),
    "none": ({"x": X[:0], "y": Y[:0]}, "at least one"),
    "nan": ({"x": X * np.nan, "y": Y}, "nan"),
    "negative label": ({"x": X, "y": Y - 1}, "label -1"),
    "huge label": ({"x": X, "y": Y + 1000}, "label 1000"),
    "negative token": ({"x": -np.ones((6, 3), int), "y": Y}, "token -1"),
    "one axis": ({"x": np.ones(6), "y": Y}, "shape (6,)"),
    "no features": ({"x": np.ones((6, 0)), "y": Y}, "shape (6, 0)"),
    "labels of two axes": ({"x": X, "y": np.zeros((6, 2), int)}, "labels must be (n,)"),
    "targets of one axis": ({"x": X, "y": np.ones(6)}, "real targets must be (n, K)"),
    "too many answers": ({"x": np.ones((6, 3), int), "y": np.zeros((6, 4), int)}, "4 answers to 3 tokens"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_refused_in_one_sentence(name, tmp_path):
    arrays, says = BAD[name]
    np.savez(tmp_path / "a.npz", **arrays)
    refused(lambda: dataset("npz", path=str(tmp_path / "a.npz")), says)


def test_files_that_are_no_arrays(tmp_path):
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "b.npz").write_bytes(b"hello")
    np.savez(tmp_path / "c.npz", x=X, y=Y)
    (tmp_path / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:200])
    (tmp_path / "d.npz").write_bytes(b"")
    for name in ("a.npy", "b.npz", "c.npz", "d.npz"):
        refused(lambda name=name: dataset("npz", path=str(tmp_path / name)), "cannot be read")
    refused(lambda: dataset("npz", path=str(tmp_path / "none.npz")), "there is no file")
    refused(lambda: dataset("npz"), "path=FILE.npz")
    np.savez(tmp_path / "e.npz", x=X, y=np.ones((6, 2)))
    refused(lambda: cn.problem("mlp", data="npz", path=str(tmp_path / "e.npz"), loss="cross-entropy"), "use loss mse")
    refused(lambda: dataset("npz", path=str(tmp_path / "e.npz"), n=7), "n is 7")


def test_every_data_set_is_listed_with_its_options():
    for name in DATASETS:
        refused(lambda name=name: dataset(name, colour=1), f"data {name} has no option colour")
