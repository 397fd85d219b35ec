"""The corridor is enforced by tests, not by hope: import contracts, lazy imports, the list of forbidden modules."""

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
    doors = {"__init__", "interface", "generated", "boundary"}  # generated code is written with boundary
    assert {m.removeprefix("cflow_sym.") for m in contract["forbidden_modules"]} == modules - doors


def test_the_numerical_side_enters_through_the_doors_only():
    """The package root re-exports everything lazily, which an import contract cannot see."""
    doors = {"cflow_sym.interface", "cflow_sym.generated"}
    for path in (ROOT / "cflow_num").rglob("*.py"):
        if path.name in ("cli.py", "cli_run.py", "cli_symbolic.py") or path.parent.name == "testing":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                whole = node.module == "cflow_sym"
                names = [f"cflow_sym.{a.name}" for a in node.names] if whole else [node.module]
            used = {".".join(n.split(".")[:2]) for n in names if n.split(".")[0] == "cflow_sym"}
            assert used <= doors, (path, used)


@pytest.mark.parametrize("package", ["cflow_sym", "cflow_num", "cflow_num.cli", "cflow_sym.generated"])
def test_importing_a_package_costs_neither_jax_nor_sympy(package):
    code = f"import sys, {package}; print([m for m in ('jax', 'sympy', 'diffrax', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_function_stays_when_the_submodule_of_its_name_is_imported():
    code = (
        "import cflow_num.run, cflow_num.compare, cflow_num as cn; "
        "print(cn.run.__name__, cn.compare.__name__, callable(cn.run))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["run", "compare", "True"]


def test_every_public_name_exists():
    import cflow_num

    for name in cflow_num.__all__:
        assert getattr(cflow_num, name) is not None
