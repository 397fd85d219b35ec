"""The corridor is enforced by tests, not by hope: import contracts, lazy imports, few flat modules."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_import_contracts_hold():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_contract_names_every_module_of_the_symbolic_side():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [c for c in contracts if c["name"].startswith("The numerical side knows")]
    modules = {p.stem for p in (ROOT / "cflow_sym").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    doors = {"__init__", "interface", "generated", "boundary", "python_file"}  # generated code is written with boundary
    assert {m.removeprefix("cflow_sym.") for m in contract["forbidden_modules"]} == modules - doors


def test_the_numerical_side_enters_through_the_doors_only():
    """The package root re-exports everything lazily, which an import contract cannot see."""
    doors = {"cflow_sym.interface", "cflow_sym.generated", "cflow_sym.python_file"}
    for path in (ROOT / "cflow_num").rglob("*.py"):
        if path.parent.name in ("cli", "testing") or path.name == "words.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                whole = node.module == "cflow_sym"
                names = [f"cflow_sym.{a.name}" for a in node.names] if whole else [node.module]
            used = {".".join(n.split(".")[:2]) for n in names if n.split(".")[0] == "cflow_sym"}
            assert used <= doors, (path, used)


@pytest.mark.parametrize("package", ["cflow_sym", "cflow_num", "cflow_num.cli.main", "cflow_sym.generated"])
def test_importing_a_package_costs_neither_jax_nor_sympy(package):
    code = f"import sys, {package}; print([m for m in ('jax', 'sympy', 'diffrax', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_public_name_is_that_of_a_wing():
    """Importing a wing would put the module in the place of the function."""
    import cflow_num

    wings = {p.name for p in (ROOT / "cflow_num").iterdir() if p.is_dir()}
    assert not wings & set(cflow_num.__all__)


@pytest.mark.parametrize("package", ["cflow_num", "cflow_sym"])
def test_few_modules_lie_beside_the_wings(package):
    flat = [p.stem for p in (ROOT / package).glob("*.py") if p.stem != "__init__"]
    assert len(flat) <= 8, flat


def test_reading_a_record_loads_neither_jax_nor_an_integrator():
    code = (
        "import sys, cflow_num.record.run, cflow_num.record.measures, cflow_num.record.variables; "
        "print([m for m in ('jax', 'diffrax', 'equinox', 'sympy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    import cflow_num

    for name in cflow_num.__all__:
        assert getattr(cflow_num, name) is not None


def test_records_know_the_kinds_of_process_by_name():
    from cflow_num.record import variables
    from cflow_num.running.kinds import KINDS, Closed

    assert list(KINDS) == variables.PROCESSES
    assert [name for name, kind in KINDS.items() if isinstance(kind, Closed)] == list(variables.CLOSURES)
