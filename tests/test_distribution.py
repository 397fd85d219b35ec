"""The wheel and the source distribution: what is in them, and a run from the wheel alone, away from the repository."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import cflow_num as cn
from cflow_num.cli.main import main
from cflow_num.support.provenance import DISTRIBUTION, own_version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {
    path.relative_to(ROOT).as_posix()
    for package in ("cflow_num", "cflow_sym")
    for path in (ROOT / package).rglob("*")
    if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
}


def done(*command, **options):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both as `make wheel` does, the wheel from the source distribution; return their paths by suffix."""
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == PACKAGES
    data = {name for name in names if not name.endswith(".py")}
    assert {"cflow_num/py.typed", "cflow_sym/py.typed", "cflow_num/report/report.html"} <= data
    assert built[".whl"].name.startswith(f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}-")


@pytest.mark.slow
def test_the_source_distribution_holds_what_building_and_testing_need(built):
    with tarfile.open(built[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= PACKAGES
    assert names >= {"README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md"}
    assert names >= {"pyproject.toml", "Makefile", "constraints.txt"}
    assert names >= {f"tests/{path.relative_to(ROOT / 'tests')}" for path in (ROOT / "tests").rglob("*.py")}
    hidden = {name for name in names if any(part.startswith((".", "__pycache__")) for part in name.split("/"))}
    assert hidden <= {".gitignore"}
    assert not {name.partition("/")[0] for name in names} & {"out", "dist", "build"}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Install the wheel into an environment of its own; dependencies are those of the running one, behind it."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    venv.create(folder, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    done(*pip, "install", "--no-deps", "--no-index", "--quiet", built[".whl"])
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    behind = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    behind += [path for path in sys.path if Path(path).name == "site-packages" and path not in behind]
    (site / "behind.pth").write_text("\n".join(behind) + "\n")  # .pth files in there are not read: nothing editable is
    return folder


@pytest.mark.slow
def test_the_installed_wheel_cites_derives_and_runs(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    cflow = installed / "bin" / "cflow"

    def run(*command):
        return done(*command, cwd=tmp_path, env=environment)

    code = "import cflow_num, cflow_sym; print(cflow_num.__file__); print(cflow_sym.__file__)"
    for found in run(installed / "bin" / "python", "-c", code).split():
        assert Path(found).is_relative_to(installed), found
    assert "@software{cflow," in run(cflow, "cite")  # a file that is read at run time
    assert r"\sigma^2" in run(cflow, "derive", "gradient_descent")
    problem = ["--problem", "quadratic:n=4", "--optimizer", "gradient_descent", "--learning-rate", "0.5"]
    run(cflow, "run", *problem, "--steps", "5", "--processes", "discrete", "--quiet", "--out", "out")
    recorded = json.loads(cn.load(tmp_path / "out" / "run.nc").tree.attrs["versions"])
    assert recorded["cflow"] == PROJECT["version"]
    assert recorded["commit"] == "unknown"  # it is no checkout


def test_the_distribution_has_one_name_and_one_version_everywhere():
    assert PROJECT["name"] == DISTRIBUTION
    assert own_version() == metadata.version(PROJECT["name"]) == PROJECT["version"]
    texts = [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in PACKAGES if name.endswith(".py")),
    ]
    wanted = [found for path in texts for found in re.findall(r"pip\s+install\s+'([^']*)'", path.read_text())]
    assert wanted
    allowed = {f"{PROJECT['name']}[{extra}]" for extra in PROJECT["optional-dependencies"]}
    assert set(wanted) <= allowed
    assert f"version: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_everything_that_says_how_to_cite_says_the_same(capsys):
    assert main(["cite"]) == 0
    printed = capsys.readouterr().out
    assert f"```bibtex\n{printed}```" in (ROOT / "docs" / "cite.md").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    titles = re.findall(r"title += \{(.*)\}", printed)
    assert len(titles) == 3  # booktitle among them
    family_names = re.findall(r"([A-Z]\w+), ", re.search(r"author +=.*", printed).group())
    assert len(family_names) == 5
    for text in (*titles, *(f"family-names: {name}" for name in family_names), "2410.24206", PROJECT["version"]):
        assert text in citation, text
    assert f"version = {{{PROJECT['version']}}}" in printed


def test_a_checkout_that_is_not_installed_has_an_unknown_version(monkeypatch):
    monkeypatch.setattr("cflow_num.support.provenance.DISTRIBUTION", "no-such-distribution")
    assert own_version() == "unknown"
