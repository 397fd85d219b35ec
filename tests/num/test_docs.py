"""The README and the pages of docs/: what they show runs, what they name exists, what they repeat is what it was."""

import importlib
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import tyro
from tyro.conf import FlagCreatePairsOff

from cflow_num.cli.main import COMMANDS
from cflow_num.record.variables import VARIABLES
from cflow_num.reproduce import FIGURES
from cflow_num.running.settings import Settings
from cflow_num.verdict.definitions import DEFINITIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
LINK = re.compile(r"\]\(([^)\s]+)\)")


def named(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path, language):
    """Return the code blocks of a page in a language."""
    return re.findall(rf"(?m)^```{language}\n(.*?)^```", path.read_text("utf-8"), re.S)


def module(folder, name):
    """Load a script of the repository that belongs to no package."""
    sys.path.insert(0, str(ROOT / folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / folder))


@pytest.fixture(scope="module")
def built():
    """Return the module that fills pages in."""
    return module("docs/building", "blocks")


@pytest.fixture(scope="module")
def refusals():
    """Return the module that reads refusals from the sources."""
    return module("docs/building", "refusals")


@pytest.fixture(scope="module")
def refused(refusals):
    """Return all refusals."""
    return refusals.refusals()


# Links and names


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page):
    targets = [t.partition("#")[0] for t in LINK.findall(page.read_text("utf-8")) if "://" not in t]
    assert all((page.parent / t).is_file() for t in targets if t), [
        t for t in targets if not (page.parent / t).exists()
    ]


@pytest.mark.parametrize("package", ["cflow_num", "cflow_sym", "cflow_num.testing"])
def test_every_public_name_is_in_the_reference(package):
    shown = {
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"(?m)^::: (\S+)$", page.read_text())
    }
    assert {f"{package}.{name}" for name in importlib.import_module(package).__all__} <= shown


def test_the_names_of_equations_are_in_their_modules():
    page, rows = ROOT / "docs" / "symbols.md", 0
    for line in page.read_text("utf-8").splitlines():
        modules = [page.parent / t for t in LINK.findall(line) if t.endswith(".py")]
        if line.startswith("| ") and modules:
            texts = "".join(m.read_text("utf-8") for m in modules)
            for name in re.findall(r"`(\w+)`", line):
                assert re.search(rf"\b{name}\b", texts), (name, line)
                rows += 1
    assert rows > 50


# What runs


def reduced(code):
    """Return an example with few steps on a small problem."""
    code = re.sub(r"\bsteps=\d+", "steps=3", code)
    code = re.sub(r"\bkeep_weights=\d+", "keep_weights=1", code)
    code = re.sub(r"\bmore\(\d+\)", "more(1)", code)
    code = re.sub(r'cn\.problem\("digits-mlp", width=\d+\)', 'cn.problem("ramp")', code)
    return re.sub(r"\bstep=\d+", "step=2", code)


def test_the_readme_and_the_first_page_show_the_same_example():
    assert blocks(ROOT / "README.md", "python") == blocks(ROOT / "docs" / "index.md", "python")


def with_examples():
    """Yield the pages with examples, but one whose example is a file that is run elsewhere; runs compile for long."""
    for page in PAGES[1:]:
        code = "".join(blocks(page, "python"))
        if code and named(page) != "docs/models.md":
            yield pytest.param(page, id=named(page), marks=[pytest.mark.slow] * ("cn.run(" in code))


@pytest.mark.parametrize("page", [*with_examples()])
def test_the_examples_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "a page"}
    for code in blocks(page, "python"):
        exec(compile(reduced(code), named(page), "exec"), names)


COMMAND_LINES = [
    pytest.param(line, id=f"{named(page)}: {line[:50]}")
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_are_commands(line):
    program, verb, *arguments = shlex.split(line, comments=True)
    if program == "make":
        assert re.search(rf"(?m)^{verb}:", (ROOT / "Makefile").read_text())
    else:
        assert program == "cflow"
        tyro.cli(COMMANDS[verb], args=arguments, config=(FlagCreatePairsOff,))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_in_the_text_have_verbs(page):
    text = re.sub(r"(?s)```.*?```", "", page.read_text("utf-8"))
    assert {verb for verb in re.findall(r"`cflow ([a-z]+)", text)} <= set(COMMANDS)
    assert {target for target in re.findall(r"`make ([a-z]+)", text)} <= set(
        re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text())
    )


def test_the_model_of_your_own_is_the_example():
    (shown,) = blocks(ROOT / "docs" / "models.md", "python")
    assert shown == (ROOT / "examples" / "own_equinox.py").read_text("utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/optimizers.md"])
def test_the_new_optimizer_is_the_example(page):
    (shown, *_) = blocks(ROOT / page, "toml")
    example = (ROOT / "examples" / "layer_cube_root.toml").read_text("utf-8")
    lines = [line.partition("#")[0].strip() for line in shown.splitlines()]
    assert [line for line in lines if line] == [
        line for text in example.splitlines() if (line := text.partition("#")[0].strip())
    ]


# What is measured


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def test_the_tables_of_pages_are_those_of_the_results():
    pages, momentum = module("benchmarks", "pages"), benchmark("momentum")
    expected = benchmark("verdicts").tables(results("verdicts")) | {
        "onset": benchmark("onset").sentence(results("onset")["delays"]),
        "momentum": momentum.table(results("momentum")["rows"], momentum.CASES),
    }
    for name, text in expected.items():
        shown = pages.shown(name)
        assert shown, name
        assert set(shown.values()) == {text.strip()}, name
    assert len(set(pages.shown("example").values())) == 1
    assert len(pages.shown("example")) == 2


# What is built


def test_tables_hold_what_the_sources_define(built):
    for rows, names in (
        (built.definitions(), DEFINITIONS),
        (built.variables(), VARIABLES),
        (built.settings(), Settings.defaults()),
    ):
        assert len(rows.splitlines()) == len(names) + 2
        assert all(f"{name}`" in rows or f'{name}"' in rows for name in names)
    assert built.figures().count("cflow reproduce ") == len(FIGURES) == 39
    assert built.limits().count("\n| `") == 7


def test_every_part_that_is_built_has_its_page_and_is_known(built):
    marked = [name for page in PAGES for name in re.findall(r"<!-- built: (\w+) -->", page.read_text("utf-8"))]
    assert sorted(marked) == sorted(built.BLOCKS)


def test_a_picture_of_the_gallery_is_the_figure_of_that_name(built):
    pictures = built.pictures()
    assert len(pictures) > 25
    assert set(pictures) <= set(FIGURES)
    assert all((ROOT / "docs" / picture).is_file() for picture, _ in pictures.values())


def test_refusals_are_read_from_the_sources(refusals, tmp_path):
    folder = tmp_path / "cflow_num" / "running"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text(
        'ADVICE = "pass a larger one"\n'
        "def check(n, names):\n"
        "    if n < 1:\n"
        '        raise InputError(f"n is {n}, it must be at least 1: {ADVICE}")\n'
        "    smaller = 'use less'\n"
        "    yield Check(n > 2, f\"{', '.join(names)} | diverge, {smaller}\")\n"
        '    raise TypeError("no sentence for users")\n'
    )
    first, second = refusals.refusals(tmp_path)
    assert first == ("cflow_num/running", "InputError", "n is *n*, it must be at least 1", "pass a larger one")
    assert second == ("cflow_num/running", "run ended early", "*names* \\| diverge", "use less")


def test_every_wing_that_refuses_has_its_heading(refusals, refused):
    folders = {p.parent for p in [*ROOT.glob("cflow_*/*/*.py")] if "InputError(" in p.read_text("utf-8")}
    assert {named(folder) for folder in folders} <= set(refusals.WINGS)
    assert len(refused) > 300


def test_the_refusals_that_are_explained_are_refusals(refused):
    """Their sentences are quoted in full, but for dots where something is put in."""
    texts = [f"{r.sentence}: {r.cure}".replace("\\", "") for r in refused]
    page = (ROOT / "docs" / "refusals.md").read_text("utf-8")
    quoted = re.findall(r"\*\*“(.+?)”", page)
    assert len(quoted) >= 12
    for quote in quoted:
        parts = [part.strip(" ,()") for part in quote.split("...")]
        assert any(all(part in text for part in parts) for text in texts), quote


def test_a_page_that_would_fetch_something_is_found(tmp_path):
    checks = module("docs/building", "checks")
    (tmp_path / "a.html").write_text(
        '<img src="a.png"><a href="https://arxiv.org/abs/1">a</a><math xmlns="http://www.w3.org/1998/Math/MathML"></math>'
        '<script src="https://cdn.example/x.js"></script><a href="https://shop.example">b</a>'
    )
    (tmp_path / "b.css").write_text("@import url(//fonts.example/f.css); p { background: url(a.png) }")
    found = [*checks.fetched(tmp_path)]
    assert len(found) == 3
    for where in ("cdn.example", "shop.example", "fonts.example"):
        assert any(where in text for text in found)
