// Values of the curves under the pointer, for the pictures of a report.
//
// Every element of class "plot" holds an image and, as JSON, its panels (what they contain: cflow_num/report/hover.py).
// This adds a vertical line at the nearest step, a dot on every curve, and a box with the values there; the arrow
// keys go from step to step. Without this script the pictures are what they are.
"use strict";

(() => {
  const narrow = matchMedia("(max-width: 45rem)"); // as in report.html
  const dark = matchMedia("(prefers-color-scheme: dark)");

  for (const plot of document.querySelectorAll(".plot")) {
    attach(plot, JSON.parse(plot.querySelector("script").textContent));
  }

  function attach(plot, panels) {
    const overlay = element("div", "overlay");
    let shown = null; // { panel, step }
    overlay.setAttribute("aria-live", "polite");
    plot.append(overlay);
    plot.tabIndex = 0;

    function show(panel, step) {
      shown = { panel, step };
      draw(overlay, plot.querySelector("img"), panel, step);
    }

    function hide() {
      shown = null;
      overlay.replaceChildren();
    }

    function follow(event) {
      const [x, y] = inImage(plot.querySelector("img"), event);
      const panel = panels.find((one) => {
        const [left, top, width, height] = box(one);
        return left <= x && x <= left + width && top <= y && y <= top + height;
      });
      if (!panel) return hide();
      const [left, , width] = box(panel);
      show(panel, nearestStep(panel, value((x - left) / width, panel.xlim, panel.xlog)));
    }

    function key(event) {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!by || !panels.length) return;
      event.preventDefault();
      const { panel, step } = shown ?? { panel: panels[0], step: -Infinity };
      const steps = allSteps(panel);
      const i = nearest(steps, step) + (shown ? by : 0);
      show(panel, steps[Math.min(Math.max(i, 0), steps.length - 1)]);
    }

    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("keydown", key);
    plot.addEventListener("pointerleave", (event) => event.pointerType === "touch" || hide());
    document.addEventListener("pointerdown", (event) => plot.contains(event.target) || hide());
  }

  // The line, the dots and the box of one step, in pixels of the plot.
  function draw(overlay, image, panel, step) {
    const [left, top, width, height] = box(panel);
    const across = (fraction) => image.offsetLeft + image.offsetWidth * (left + width * fraction);
    const down = (fraction) => image.offsetTop + image.offsetHeight * (top + height * fraction);
    const x = place(step, panel.xlim, panel.xlog);
    const readings = read(panel, step);
    const line = at(element("div", "line"), across(x), down(0));
    line.style.height = `${image.offsetHeight * height}px`;
    const dots = readings.map(({ curve, at: where, value: v }) => {
      const dot = [place(where, panel.xlim, panel.xlog), 1 - place(v, panel.ylim, panel.ylog)];
      if (!dot.every((fraction) => fraction >= 0 && fraction <= 1)) return null; // outside of the panel, or not known
      const drawn = at(element("div", "dot"), across(dot[0]), down(dot[1]));
      drawn.style.background = colour(curve);
      return drawn;
    });
    const words = at(table(readings, step), across(x), down(0));
    words.classList.toggle("left", left + width * x > 0.5); // of the line, where there is more room
    overlay.replaceChildren(line, ...dots.filter(Boolean), words);
  }

  // What every curve is at a step, at its own nearest point; nothing before its first and after its last one.
  function read(panel, step) {
    return panel.curves.flatMap((curve) => {
      const steps = panel.steps[curve.steps];
      const i = nearest(steps, step);
      const within = steps[0] <= step && step <= steps[steps.length - 1];
      return within ? [{ curve, at: steps[i], value: curve.values[i] }] : [];
    });
  }

  // One row a name: curves that share it (eigenvalues) share its row.
  function table(readings, step) {
    const words = element("div", "reading");
    const rows = new Map();
    words.append(element("div", "step", `step ${step}`));
    for (const { curve, at: where, value: v } of readings) {
      if (!rows.has(curve.name)) {
        const swatch = element("span", "swatch");
        swatch.style.background = colour(curve);
        const elsewhere = where === step ? "" : ` (step ${where})`;
        const numbers = element("span", "values");
        words.append(swatch, element("span", "name", curve.name + elsewhere), numbers);
        rows.set(curve.name, numbers);
      }
      const numbers = rows.get(curve.name);
      numbers.textContent += (numbers.textContent && ", ") + text(v);
    }
    return words;
  }

  // Where a panel is in the image that is shown, and the colour of a curve there.
  function box(panel) {
    return narrow.matches ? panel.narrow : panel.box;
  }

  function colour(curve) {
    return dark.matches ? curve.dark : curve.colour;
  }

  function text(v) {
    const size = Math.abs(v);
    return v === 0 || (size >= 1e-4 && size < 1e5) ? v.toPrecision(4) : v.toExponential(3);
  }

  function place(v, [low, high], log) {
    return log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
  }

  function value(fraction, [low, high], log) {
    return log ? low * (high / low) ** fraction : low + (high - low) * fraction;
  }

  function allSteps(panel) {
    return [...new Set(panel.steps.flat())].sort((a, b) => a - b);
  }

  function nearestStep(panel, x) {
    const steps = allSteps(panel);
    return steps[nearest(steps, x)];
  }

  // The index of the entry of ascending numbers that is nearest to x.
  function nearest(numbers, x) {
    let low = 0;
    let high = numbers.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (numbers[middle] <= x) low = middle;
      else high = middle;
    }
    return Math.abs(numbers[low] - x) <= Math.abs(numbers[high] - x) ? low : high;
  }

  function inImage(image, event) {
    const { left, top, width, height } = image.getBoundingClientRect();
    return [(event.clientX - left) / width, (event.clientY - top) / height];
  }

  function element(tag, kind, words = "") {
    const made = document.createElement(tag);
    made.className = kind;
    made.textContent = words;
    return made;
  }

  function at(made, x, y) {
    made.style.left = `${x}px`;
    made.style.top = `${y}px`;
    return made;
  }
})();
