"""MNIST and Fashion-MNIST from small files in their format, IDX; refusals of what is damaged or something else."""

import dataclasses
import gzip
import hashlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cflow_num as cn
from cflow_num.cli.main import main
from cflow_num.problems.architectures import architecture
from cflow_num.problems.datasets import dataset, idx, images, mnist
from cflow_num.problems.datasets.base import Images
from cflow_num.support.errors import InputError

LABELS = np.array([3, 0, 1, 2, 9, 4, 5, 6, 7, 8] * 4, np.uint8)
PIXELS = np.random.default_rng(0).integers(0, 256, size=(40, 28, 28), dtype=np.uint8)


def as_idx(array, kind=8):
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


IMAGE_FILE, LABEL_FILE = as_idx(PIXELS), as_idx(LABELS)


def written(folder, image_file=IMAGE_FILE, label_file=LABEL_FILE, suffix="", compress=bytes):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(compress(image_file))
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(compress(label_file))
    return folder


def refused(call, *says):
    with pytest.raises(InputError) as error:
        call()
    for text in says:
        assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(autouse=True)
def _nothing_else_on_this_machine(monkeypatch):
    monkeypatch.delenv(images.VARIABLE, raising=False)
    monkeypatch.setattr(mnist, "FASHION", dataclasses.replace(mnist.FASHION, installed=""))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(0, 99), st.booleans())
def test_arrays_are_read_as_they_were_written(tmp_path_factory, shape, seed, compressed):
    path = tmp_path_factory.mktemp("idx") / "a"
    array = np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)
    path.write_bytes(gzip.compress(as_idx(array)) if compressed else as_idx(array))
    np.testing.assert_array_equal(idx.read_idx(path, array.ndim, ""), array)
    assert idx.md5_of(array) == hashlib.md5(as_idx(array)).hexdigest()


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_images_are_as_they_were_written(name, tmp_path):
    data = dataset(name, n=23, folder=str(written(tmp_path)))
    assert (data.inputs, data.x.shape, data.classes) == (Images(28, 28, 1), (23, 28, 28, 1), 10)
    assert np.bincount(data.y).tolist() == [3] * 3 + [2] * 7
    np.testing.assert_array_equal(data.y[:20], LABELS[:20])
    of = {"fashion-mnist": mnist.FASHION, "mnist": mnist.DIGITS}[name]
    assert of.title in data.description
    np.testing.assert_allclose((data.x[..., 0] * of.deviation + of.mean)[:20] * 255, PIXELS[:20], atol=1e-9)


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_the_first_classes_are_taken(name, tmp_path):
    written(tmp_path)
    record = np.concatenate([LABELS[:, None], np.zeros((40, 3072), np.uint8)], axis=1)
    (tmp_path / "data_batch_1.bin").write_bytes(record.tobytes())
    data = dataset(name, n=7, classes=3, folder=str(tmp_path))
    assert data.classes == 3
    assert data.y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    for classes in (1, 11):
        refused(lambda classes=classes: dataset(name, classes=classes, folder=str(tmp_path)), "between 2 and 10")
    refused(lambda: dataset(name, n=2, classes=3, folder=str(tmp_path)), "at least 3")


def test_files_may_be_compressed_whatever_their_names_say(tmp_path):
    plain = dataset("mnist", n=10, folder=str(written(tmp_path / "plain")))
    for suffix, compress in ((".gz", gzip.compress), ("", gzip.compress), (".gz", bytes)):
        folder = written(tmp_path / f"{suffix}{compress is bytes}", suffix=suffix, compress=compress)
        np.testing.assert_array_equal(dataset("mnist", n=10, folder=str(folder)).x, plain.x)


def test_where_images_are_looked_for(tmp_path, monkeypatch):
    system, mine = tmp_path / "system", tmp_path / "mine"
    refused(lambda: dataset("fashion-mnist"), "folder=FOLDER", images.VARIABLE, "dataset-fashion-mnist")
    monkeypatch.setattr(mnist, "FASHION", dataclasses.replace(mnist.FASHION, installed=str(system)))
    written(system, label_file=as_idx(LABELS[::-1]))
    assert dataset("fashion-mnist", n=10).y[0] == 8
    monkeypatch.setenv(images.VARIABLE, str(mine))
    assert dataset("fashion-mnist", n=10).y[0] == 8  # the folder of the variable has none
    written(mine / "fashion-mnist")
    assert dataset("fashion-mnist", n=10).y[0] == 3
    refused(lambda: dataset("mnist", n=10), "there is no train-images-idx3-ubyte.gz", str(mine))
    refused(lambda: dataset("fashion-mnist", folder=str(tmp_path / "no")), "there is no", mnist.FASHION.source)


def without_labels(folder):
    (folder / "train-labels-idx1-ubyte").unlink()


def a_folder(folder):
    without_labels(folder)
    (folder / "train-labels-idx1-ubyte.gz").mkdir()


WRONG = {
    "cut": ({"image_file": IMAGE_FILE[:-1]}, "31375 bytes, and must have 31376"),
    "too long": ({"label_file": LABEL_FILE + b"\0"}, "49 bytes, and must have 48"),
    "cut in the header": ({"image_file": IMAGE_FILE[:10]}, "within its header of 16"),
    "empty": ({"image_file": b""}, "not an IDX file"),
    "not IDX": ({"image_file": b"\x89PNG" + IMAGE_FILE}, "not an IDX file"),
    "changed places": ({"image_file": LABEL_FILE, "label_file": IMAGE_FILE}, "of 1 axes", "must have 3 axes"),
    "floats": ({"image_file": as_idx(PIXELS, kind=13)}, "type 13"),
    "cut archive": ({"image_file": gzip.compress(IMAGE_FILE)[:-100]}, "is damaged"),
    "damaged archive": ({"label_file": gzip.compress(LABEL_FILE)[:-8] + bytes(8)}, "is damaged"),
    "archive of nothing": ({"label_file": b"\x1f\x8b" + bytes(20)}, "is damaged"),
    "other pixels": ({"image_file": as_idx(PIXELS[:, :20, :20])}, "20 x 20 pixels"),
    "no images": ({"image_file": as_idx(PIXELS[:0]), "label_file": as_idx(LABELS[:0])}, "at least one"),
    "fewer labels": ({"label_file": as_idx(LABELS[:39])}, "40 images", "39 labels"),
    "more labels": ({"label_file": as_idx(LABELS + 7)}, "label 16"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused_in_one_sentence(case, tmp_path):
    files, *says = WRONG[case]
    written(tmp_path, **files)
    refused(lambda: dataset("fashion-mnist", n=10, folder=str(tmp_path)), *says, str(tmp_path), mnist.FASHION.source)


@pytest.mark.parametrize("change", [without_labels, a_folder])
def test_missing_files_are_refused(change, tmp_path):
    change(written(tmp_path))
    refused(lambda: dataset("mnist", n=10, folder=str(tmp_path)), "there is no train-labels-idx1-ubyte.gz")


def test_more_images_than_there_are(tmp_path):
    refused(lambda: dataset("mnist", n=41, folder=str(written(tmp_path))), "n is 41", "40 of them")


def test_the_whole_set_is_known_by_its_checksums(tmp_path, monkeypatch):
    """Here 40 images are the whole: no other file of that length passes for them, however it is compressed."""
    sums = tuple(hashlib.md5(file).hexdigest() for file in (IMAGE_FILE, LABEL_FILE))
    monkeypatch.setattr(mnist, "WHOLE", 40)
    monkeypatch.setattr(mnist, "FASHION", dataclasses.replace(mnist.FASHION, md5=sums))
    folder = str(written(tmp_path, suffix=".gz", compress=gzip.compress))
    assert len(dataset("fashion-mnist", n=10, folder=folder).y) == 10
    refused(lambda: dataset("mnist", n=10, folder=folder), "is that of data=fashion-mnist", sums[0])
    written(tmp_path, label_file=as_idx(LABELS[::-1]), suffix=".gz")
    refused(lambda: dataset("fashion-mnist", n=10, folder=folder), "damaged or of another data set", sums[1])


@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet", "vit"])
def test_networks_take_these_images(network, tmp_path):
    data = dataset("fashion-mnist", n=10, folder=str(written(tmp_path)))
    model = architecture(network, data.inputs, data.classes)
    outputs = np.asarray(jax.vmap(model)(jnp.asarray(data.x[:2])))
    assert outputs.shape == (2, 10)
    assert np.isfinite(outputs).all()
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3  # it sees the image
    large = architecture(network, data.inputs, data.classes, size="paper")
    assert jax.eval_shape(large, jnp.asarray(data.x[0])).shape == (10,)


def test_networks_refuse_an_option_that_the_data_lack():
    refused(lambda: cn.problem("mlp", classes=3), "data digits has no option classes")


@pytest.mark.slow
def test_a_run_on_these_images(tmp_path, capsys):
    folder = written(tmp_path / "data")
    arguments = [
        "--optimizer",
        "gradient_descent",
        "--learning-rate",
        "0.001",
        "--steps",
        "2",
        "--eig-every",
        "9",
        "--quiet",
    ]
    arguments += ["--processes", "discrete", "--out", str(tmp_path / "run")]
    options = f"data=fashion-mnist,folder={folder},n=8,classes=2"
    assert main(["run", "--problem", f"mlp:{options}", *arguments]) == 0
    run = cn.load(tmp_path / "run" / "run.nc")
    assert "8 Fashion-MNIST images of 2 classes" in run.tree.attrs["config"]
    loss = run.array("discrete", "loss")
    assert loss[-1] < loss[0]
    capsys.readouterr()
    (folder / "train-images-idx3-ubyte").write_bytes(IMAGE_FILE[:100])
    assert main(["run", "--problem", f"mlp:{options}", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "100 bytes" in error


def test_problems_lists_the_data(capsys):
    assert main(["problems"]) == 0
    listed = capsys.readouterr().out
    assert "fashion-mnist" in listed
    assert "\nmnist" in listed
