"""The report page in a real browser: it loads without a complaint, and the pointer reads the run's numbers."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cflow_num.record.measures import values
from cflow_num.report.page import write_report

from .synthetic import STEPS, synthetic, without

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
QUIET = [f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")]
EVIL = '</script><script>window.broken = "out"</script>'

# After loading: what the page looks like, and what it answers to some events. FINDINGS is read back from the DOM.
EXPERIMENT = """
<script>
addEventListener("load", () => {
  const found = { broken: window.broken ?? null, widths: [], readings: [] };
  for (const image of document.images) found.widths.push(image.naturalWidth);
  const box = (plot) => {
    const reading = plot.querySelector(".reading");
    if (!reading) return null;
    const texts = (kind) => [...reading.querySelectorAll(kind)].map((e) => e.textContent);
    const names = texts(".name"), numbers = texts(".values");
    const line = plot.querySelector(".line").getBoundingClientRect();
    const size = reading.getBoundingClientRect();
    return { step: texts(".step")[0], rows: Object.fromEntries(names.map((name, i) => [name, numbers[i]])),
      line: [line.left, line.top, line.height], dots: plot.querySelectorAll(".dot").length,
      inside: size.width > 0 && size.left >= 0 && size.right <= innerWidth };
  };
  const point = (plot, kind, x, y, device = "mouse") => {
    const at = plot.querySelector("img").getBoundingClientRect();
    const [clientX, clientY] = [at.left + x * at.width, at.top + y * at.height];
    plot.dispatchEvent(new PointerEvent(kind, { clientX, clientY, bubbles: true, pointerType: device }));
    return { x: clientX, ...box(plot) };
  };
  const press = (plot, key) => {
    plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    return box(plot);
  };
  const plots = [...document.querySelectorAll(".plot")];
  for (const plot of plots) {
    for (const panel of JSON.parse(plot.querySelector("script").textContent)) {
      const [left, top, width, height] = panel.box;
      found.readings.push(point(plot, "pointermove", left + 0.3 * width, top + 0.5 * height));
    }
  }
  const plot = plots[0], [left, top, width, height] = JSON.parse(plot.querySelector("script").textContent)[0].box;
  const middle = [left + width / 2, top + height / 2];
  found.outside = point(plot, "pointermove", 0, 0).step ?? null;
  found.entered = point(plot, "pointermove", ...middle).step;
  found.next = press(plot, "ArrowRight").step;
  found.back = press(plot, "ArrowLeft").step;
  found.escaped = press(plot, "Escape");
  found.touched = point(plot, "pointerdown", ...middle, "touch").step;
  found.lifted = point(plot, "pointerleave", ...middle, "touch").step;
  document.body.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true }));
  found.elsewhere = box(plot);
  const findings = document.createElement("pre");
  findings.id = "findings";
  findings.textContent = JSON.stringify(found);
  document.body.append(findings);
});
</script>
"""


# After loading on a phone: what does not fit, where the verdicts are, and which images are shown.
PHONE = """
<script>
addEventListener("load", () => {
  const chips = [...document.querySelectorAll("td .chip")].map((e) => e.getBoundingClientRect());
  const images = [...document.images].map((e) => [e.naturalWidth, e.getBoundingClientRect().right]);
  const plot = document.querySelector(".plot"), image = plot.querySelector("img").getBoundingClientRect();
  const [left, top, width, height] = JSON.parse(plot.querySelector("script").textContent)[0].narrow;
  const clientX = image.left + (left + width / 2) * image.width;
  const clientY = image.top + (top + height / 2) * image.height;
  plot.dispatchEvent(new PointerEvent("pointerdown", { clientX, clientY, bubbles: true, pointerType: "touch" }));
  const found = { width: innerWidth, page: document.documentElement.scrollWidth,
    tables: [...document.querySelectorAll(".card")].map((e) => e.scrollWidth - e.clientWidth),
    chips: chips.map((e) => [e.left, e.right]), images, dark: matchMedia("(prefers-color-scheme: dark)").matches,
    step: plot.querySelector(".step").textContent, dot: plot.querySelector(".dot").style.background };
  const findings = document.createElement("pre");
  findings.id = "findings";
  findings.textContent = JSON.stringify(found);
  document.body.append(findings);
});
</script>
"""


def visited(page: Path, folder: Path, *options: str, width: int = 1100) -> tuple[str, list[str]]:
    """Return the DOM of a page after it was loaded, and what it wrote on the console."""
    command = [BROWSER, "--headless", "--no-sandbox", "--no-first-run", *QUIET, f"--user-data-dir={folder / 'user'}"]
    command += [*options, f"--window-size={width},900", "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def runs():
    loss = np.geomspace(1, 1e-3, STEPS + 1)
    first = synthetic(problem=EVIL, central={"loss": loss, "predicted_loss": 1.1 * loss})
    return [first, synthetic(problem=EVIL, ratio=0.5)]


@pytest.fixture(scope="module")
def found(runs, tmp_path_factory):
    """What a browser finds on the page of two runs."""
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    folder = tmp_path_factory.mktemp("browser")
    page = write_report(runs, folder)
    page.write_text(page.read_text("utf-8").replace("</body>", f"{EXPERIMENT}</body>"), "utf-8")
    dom, complaints = visited(page, folder)
    assert not complaints
    (findings,) = re.findall(r'<pre id="findings">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(html.unescape(findings))


def test_complaints_on_the_console_are_heard(tmp_path):
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><title>page</title><script>nothing.known()</script>")
    _, complaints = visited(page, tmp_path)
    assert any("nothing is not defined" in line for line in complaints)


def test_every_picture_is_shown_and_no_name_breaks_out(found):
    assert len(found["widths"]) > 10
    assert min(found["widths"]) >= 800
    assert found["broken"] is None


def test_the_box_shows_the_runs_numbers_at_the_step_of_the_line(found, runs):
    losses = found["readings"][:2]  # the first picture compares the runs' losses, a panel each
    for reading, run in zip(losses, runs, strict=True):
        step = int(reading["step"].removeprefix("step "))
        assert abs(step - 0.3 * STEPS) < 0.02 * STEPS
        for process in ("stable", "central"):
            assert reading["rows"][f"{process} flow"] == f"{values(run, process, 'loss')[step]:#.4g}"
        assert reading["rows"]["predicted average"] == f"{values(run, 'central', 'predicted_loss')[step]:#.4g}"
        assert reading["rows"]["optimizer"] == "3.000"


def test_every_panel_answers_with_its_line_at_the_pointer(found):
    assert len(found["readings"]) > 12
    for reading in found["readings"]:
        assert reading["step"].startswith("step ")
        assert reading["rows"]
        assert reading["dots"] >= 1
        assert reading["inside"]
        assert abs(reading["line"][0] - reading["x"]) < 4  # pixels: the nearest step is as near as that
        assert reading["line"][2] > 50


def test_pointer_touch_and_keys_open_move_and_close_the_box(found):
    assert found["outside"] is None
    step = int(found["entered"].removeprefix("step "))
    assert 1 <= int(found["next"].removeprefix("step ")) - step <= 3
    assert found["back"] == found["entered"]
    assert found["escaped"] is None
    assert found["touched"] == found["lifted"] == found["entered"], "a lifted finger leaves the box to be read"
    assert found["elsewhere"] is None


@pytest.fixture(scope="module")
def for_phones(runs, tmp_path_factory):
    """A page about a run with flows and one without."""
    if BROWSER is None:
        pytest.skip("no chromium is installed")
    page = write_report([runs[0], without(without(runs[1], "stable"), "central")], tmp_path_factory.mktemp("phone"))
    page.write_text(page.read_text("utf-8").replace("</body>", f"{PHONE}</body>"), "utf-8")
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_every_verdict_and_needs_no_sideways_scrolling(for_phones, tmp_path, dark):
    dom, complaints = visited(
        for_phones, tmp_path, f"--blink-settings=preferredColorScheme={0 if dark else 1}", width=390
    )
    assert not complaints
    (findings,) = re.findall(r'<pre id="findings">(.*?)</pre>', dom, re.DOTALL)
    found = json.loads(html.unescape(findings))
    assert found["width"] <= 500, "the least width of a window"
    assert found["page"] <= found["width"]
    assert max(found["tables"]) <= 0
    assert len(found["chips"]) == 2 + 6, "in the overview, and one a limit"
    assert all(0 <= left < right <= found["width"] for left, right in found["chips"])
    assert all(natural == 836 and right <= found["width"] for natural, right in found["images"])
    assert found["dark"] is dark
    assert abs(int(found["step"].removeprefix("step ")) - STEPS / 2) < 0.02 * STEPS
    assert found["dot"] == ("rgb(90, 169, 230)" if dark else "rgb(47, 126, 188)")
