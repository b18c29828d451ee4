// Draw sections: lists of plain data, as hookline.sections describes them. Every text becomes a text node.
//
//   const drawn = Hookline.draw(element, sections);   // replaces the children of the element
//   drawn.update(sections);                           // redraws what changed, and keeps zoom, smoothing and focus
//
// The colours are in hookline.css.
"use strict";
const Hookline = (() => {
  const NUM_COLOURS = 6;
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  const TOPICS = {
    run: "Run", curves: "Curves", evaluation: "Evaluation", data: "Data", model: "Model",
    warnings: "Warnings and log", environment: "Environment", repeat: "Repeat it",
  };
  const SVG = "http://www.w3.org/2000/svg";
  let numberOfIds = 0;

  // ---- elements ----------------------------------------------------------------------------------------------

  function make(name, attributes = {}, ...children) {
    return filled(document.createElement(name), attributes, children);
  }

  function shape(name, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, name), attributes, children);
  }

  function filled(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== false && value !== undefined) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== ""));  // a string becomes a text node
    return element;
  }

  function shown(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    const size = Math.abs(value);
    if (value !== 0 && (size < 1e-4 || size >= 1e9)) return value.toExponential(3);
    return String(Number(value.toPrecision(6)));
  }

  function tick(value) {
    const isLarge = typeof value === "number" && Math.abs(value) >= 1e5 && Math.abs(value) < 1e15;
    return isLarge ? value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 5 }) : shown(value);
  }

  function scrolling(label, ...children) {
    return make("div", { class: "hl-scroll", tabindex: "0", role: "region", "aria-label": label }, ...children);
  }

  // ---- axes --------------------------------------------------------------------------------------------------

  function ticks(low, high, number = 5) {
    if (!(high > low)) return [low];
    const rough = (high - low) / number;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) || rough;
    const found = [];
    for (let tick = Math.ceil(low / step); tick * step <= high + step * 1e-9; tick += 1) found.push(tick * step);
    return found;
  }

  function spread(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (!(high >= low)) return [0, 1];
    const margin = (high - low || Math.abs(high) || 1) * 0.04;
    return [low - margin, high + margin];
  }

  // A frame with axes; returns the SVG and functions from values to places.
  function frame(label, [left, right], [bottom, top], xLabel, yLabel, size = [480, 290]) {
    const [width, height] = size;
    const box = { left: 72, right: width - 12, top: 10, bottom: height - 46 };
    const x = (value) => box.left + ((value - left) / (right - left || 1)) * (box.right - box.left);
    const y = (value) => box.bottom - ((value - bottom) / (top - bottom || 1)) * (box.bottom - box.top);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "hl-svg" });
    for (const at of ticks(left, right)) {
      svg.append(shape("line", { class: "hl-grid", x1: x(at), x2: x(at), y1: box.top, y2: box.bottom }));
      svg.append(shape("text", { class: "hl-tick", x: x(at), y: box.bottom + 18, "text-anchor": "middle" }, tick(at)));
    }
    for (const at of ticks(bottom, top)) {
      svg.append(shape("line", { class: "hl-grid", x1: box.left, x2: box.right, y1: y(at), y2: y(at) }));
      svg.append(shape("text", { class: "hl-tick", x: box.left - 8, y: y(at) + 4, "text-anchor": "end" }, tick(at)));
    }
    const middle = (box.top + box.bottom) / 2;
    svg.append(shape("text", { class: "hl-axis", x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle" }, xLabel));
    svg.append(shape("text", { class: "hl-axis", x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, yLabel));
    return { svg, x, y, box };
  }

  // ---- curves ------------------------------------------------------------------------------------------------

  function smoothed(values, weight) {
    // The exponential moving average with the correction of its start: D. P. Kingma, J. Ba, "Adam" (2015), section 3.
    let sum = 0, mass = 0;
    return values.map((value) => {
      if (value === null || value === undefined) return value;
      sum = weight * sum + (1 - weight) * value;
      mass = weight * mass + (1 - weight);
      return sum / mass;
    });
  }

  class Chart {
    constructor(section, view) {
      this.section = section;
      this.view = view;
      this.hidden = new Set();
      this.plot = null;
      this.box = make("div", {
        class: "hl-chart", tabindex: "0", role: "group", onkeydown: (event) => this.press(event),
        "aria-description": "Arrow keys move along the line, plus and minus zoom, Escape shows all.",
      });
      this.legend = make("div", { class: "hl-legend" });
      this.readout = make("output", { class: "hl-readout", "aria-live": "polite" });
      this.reset = make("button", { type: "button", class: "hl-reset", hidden: true, onclick: () => this.showAll() }, "Show all");
      this.element = make("div", {}, this.box, make("div", { class: "hl-under" }, this.readout, this.reset), this.legend);
      new ResizeObserver(() => this.fit()).observe(this.box);
      this.update(section);
    }

    update(section) {
      const names = JSON.stringify(section.series.map((one) => one.name));
      this.section = section;
      this.box.setAttribute("aria-label", `${section.title}: ${section.series.slice(0, 10).map(lastOf).join(", ")}`);
      if (names !== this.names) {
        this.names = names;
        this.drawLegend();
        this.draw();
      } else this.redraw();
    }

    // The lines: of each series its values, and what lies behind them.
    lines() {
      const weight = this.section.is_trace ? this.view.smoothing : 0;
      const isLog = this.isLog();
      const positive = (values) => (isLog ? values.map((value) => (value > 0 ? value : null)) : values);
      const steps = (one) => (this.section.is_trace ? one.steps : ascending(one.steps));
      const lines = [];
      this.section.series.forEach((one, index) => {
        const show = !this.hidden.has(one.name);
        const add = (values, more) => lines.push({ index, show, steps: steps(one), values: positive(values), ...more });
        if (one.low.length) {
          add(one.high, { alpha: 0 });
          add(one.low, { alpha: 0, isBand: true });
        }
        if (weight > 0) add(one.values, { alpha: 0.25 });
        add(weight > 0 ? smoothed(one.values, weight) : one.values, { alpha: 1, isMain: true });
      });
      if (this.section.has_diagonal) lines.push({ index: -1, show: true, steps: [0, 1], values: [0, 1], alpha: 1 });
      return lines;
    }

    isLog() {
      return this.section.is_trace && this.view.isLog && this.section.series.some((one) => one.values.some((v) => v > 0));
    }

    draw() {
      const limits = this.plot && this.zoomed ? { ...this.plot.scales.x } : null;
      if (this.plot) this.plot.destroy();
      const style = getComputedStyle(document.documentElement);
      const ink = style.getPropertyValue("--hl-ink").trim() || "#222";
      const grid = style.getPropertyValue("--hl-line").trim() || "#ddd";
      const soft = style.getPropertyValue("--hl-soft").trim() || "#555";
      const lines = this.lines();
      const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "12px system-ui, sans-serif" };
      const range = this.section.has_diagonal ? { range: () => [0, 1] } : {};
      const options = {
        width: this.width(), height: 260, padding: [8, 22, 0, 0], legend: { show: false },
        cursor: { drag: { x: true, y: false }, focus: { prox: 24 }, points: { size: 7 } },
        scales: { x: { time: false, ...range }, y: this.isLog() ? { distr: 3 } : range },
        axes: [
          { ...axis, label: this.section.x_label, labelSize: 20, labelFont: axis.font, size: 30, values: (_, all) => all.map(tick) },
          { ...axis, size: 68, values: (_, all) => all.map((value) => (value === null ? "" : tick(value))) },
        ],
        series: [{}, ...lines.map((line) => ({
          show: line.show, width: line.alpha === 1 ? 2 : 1, points: line.isMain ? {} : { show: false },
          stroke: line.index < 0 ? soft : this.colour(line.index, line.alpha), dash: line.index < 0 ? [4, 4] : this.dash(line.index),
        }))],
        bands: lines.flatMap((line, at) => (line.isBand ? [{ series: [at, at + 1], fill: this.colour(line.index, 0.18) }] : [])),
        hooks: { setCursor: [() => this.read()], setScale: [(plot, key) => key === "x" && this.noteZoom(plot)] },
      };
      this.kept = lines;
      this.plot = new uPlot(options, joined(lines), this.box);
      if (limits) this.plot.setScale("x", { min: limits.min, max: limits.max });
      this.read();
    }

    redraw() {
      const lines = this.lines();
      if (!this.plot || lines.length !== this.kept.length) return this.draw();
      this.kept = lines;
      this.plot.setData(joined(lines), !this.zoomed);
      if (this.zoomed) this.plot.redraw(true);
      this.read();
    }

    drawLegend() {
      this.values = [];
      this.legend.replaceChildren(...this.section.series.map((one, index) => {
        const value = make("span", { class: "hl-value" });
        this.values.push(value);
        const line = shape("svg", { viewBox: "0 0 22 4", class: "hl-sample", "aria-hidden": "true" }, shape("line", {
          class: `hl-colour-${this.number(index)}`, x1: 0, x2: 22, y1: 2, y2: 2, "stroke-width": 3, "stroke-dasharray": this.dash(index).join(" "),
        }));
        return make("button", {
          type: "button", "aria-pressed": String(!this.hidden.has(one.name)), title: "Show or hide this line",
          onclick: (event) => this.toggle(one.name, event.currentTarget),
        }, line, make("span", { class: "hl-name" }, one.name), value);
      }));
    }

    // Lines of a cycle differ in colour, and those of the next cycles in their dashes.
    number(index) {
      return (index % Math.max(this.section.cycle, 1)) % NUM_COLOURS;
    }

    dash(index) {
      return DASHES[Math.floor(index / Math.max(this.section.cycle, 1)) % DASHES.length];
    }

    colour(index, alpha) {
      const base = getComputedStyle(document.documentElement).getPropertyValue(`--hl-${this.number(index)}`).trim();
      return base + Math.round(alpha * 255).toString(16).padStart(2, "0");
    }

    toggle(name, button) {
      const isShown = this.hidden.delete(name);
      if (!isShown) this.hidden.add(name);
      button.setAttribute("aria-pressed", String(isShown));
      this.plot.batch(() => this.kept.forEach((line, at) => {
        if (line.index >= 0 && this.section.series[line.index].name === name) this.plot.setSeries(at + 1, { show: isShown });
      }));
    }

    // The values at the cursor, or the last ones.
    read() {
      if (!this.plot) return;
      const at = this.plot.cursor.idx;
      const isThere = at !== null && at !== undefined;
      this.readout.textContent = isThere ? `${this.section.x_label} ${shown(this.plot.data[0][at])}` : "";
      this.kept.forEach((line, index) => {
        if (!line.isMain) return;
        const values = this.plot.data[index + 1];
        this.values[line.index].textContent = isThere ? shown(nearest(values, at)) : this.section.is_trace ? shown(lastNumber(line.values)) : "";
      });
    }

    press(event) {
      const plot = this.plot, steps = plot.data[0], last = steps.length - 1;
      const { min, max } = plot.scales.x;
      const at = plot.cursor.idx === null || plot.cursor.idx === undefined ? -1 : plot.cursor.idx;
      const moves = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last };
      if (event.key in moves) {
        plot.setCursor({ left: plot.valToPos(steps[moves[event.key]], "x"), top: plot.bbox.height / devicePixelRatio / 2 });
      } else if (event.key === "+" || event.key === "-") {
        const middle = at < 0 ? (min + max) / 2 : steps[at];
        const half = ((max - min) / 2) * (event.key === "+" ? 0.5 : 2);
        const from = Math.max(middle - half, steps[0]), to = Math.min(middle + half, steps[last]);
        if (to > from) plot.setScale("x", { min: from, max: to });
      } else if (event.key === "Escape" || event.key === "0") this.showAll();
      else return;
      event.preventDefault();
    }

    showAll() {
      const steps = this.plot.data[0];
      this.plot.setScale("x", { min: steps[0], max: steps[steps.length - 1] });
      if (!this.reset.hidden) this.noteZoom(this.plot);
    }

    noteZoom(plot) {
      const steps = plot.data[0], { min, max } = plot.scales.x;
      this.zoomed = steps.length > 1 && (min > steps[0] || max < steps[steps.length - 1]);
      this.reset.hidden = !this.zoomed;
    }

    width() {
      return Math.max(this.box.clientWidth, 200);
    }

    fit() {
      if (this.plot && this.plot.width !== this.width()) this.plot.setSize({ width: this.width(), height: 260 });
    }
  }

  function joined(lines) {
    // Lines with the same steps share them; others are joined: a step that a line lacks is no gap in it.
    if (!lines.length) return [[]];
    if (lines.every((line) => line.steps === lines[0].steps)) return [lines[0].steps, ...lines.map((line) => line.values)];
    return uPlot.join(lines.map((line) => [line.steps, line.values]));
  }

  // uPlot needs ascending steps; a curve of rates rises at the same one.
  function ascending(steps) {
    let last = -Infinity;
    return steps.map((step) => (last = step > last ? step : last + 1e-9));
  }

  function nearest(values, at) {
    for (let back = at; back >= 0; back -= 1) if (values[back] !== undefined) return values[back];
    return null;
  }

  function lastNumber(values) {
    for (let at = values.length - 1; at >= 0; at -= 1) if (typeof values[at] === "number") return values[at];
    return null;
  }

  const lastOf = (one) => `${one.name} ends at ${shown(lastNumber(one.values))}`;

  function curves(section, view) {
    const chart = new Chart(section, view);
    view.charts.add(chart);
    return { element: chart.element, update: (next) => chart.update(next) };
  }

  function controls(view) {
    const id = `hl-${(numberOfIds += 1)}`;
    const value = make("output", { for: id }, "0");
    const slider = make("input", { id, type: "range", min: "0", max: "0.99", step: "0.01", value: "0" });
    const box = make("input", { id: `${id}-log`, type: "checkbox" });
    let isWaiting = false;
    slider.addEventListener("input", () => {
      view.smoothing = Number(slider.value);
      value.textContent = slider.value;
      if (!isWaiting) requestAnimationFrame(() => { isWaiting = false; view.redraw(); });
      isWaiting = true;
    });
    box.addEventListener("change", () => { view.isLog = box.checked; view.draw(); });
    return make("div", { class: "hl-controls" }, make("label", { for: id }, "Smoothing"), slider, value,
      make("label", { for: `${id}-log` }, box, " Logarithmic scale"),
      make("span", { class: "hl-hint" }, "Drag to zoom, double-click to show all."));
  }

  // ---- other kinds -------------------------------------------------------------------------------------------

  function table(section) {
    const marked = new Set(section.marked);
    const rows = section.rows.map((row, index) => make("tr", marked.has(index) ? { class: "hl-marked" } : {},
      ...row.map((cell) => make("td", typeof cell === "number" ? { class: "hl-number" } : String(cell).length < 40 ? { class: "hl-word" } : {}, shown(cell)))));
    const body = make("tbody", {}, ...rows);
    const heads = section.columns.map((name, column) => make("th", { scope: "col", "aria-sort": "none" },
      make("button", { type: "button", title: "Sort by this column", onclick: (event) => sort(event.currentTarget.parentNode, column) }, name)));
    function sort(head, column) {
      const isUp = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((each) => each.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const order = section.rows.map((row, index) => index);
      order.sort((a, b) => (isUp ? 1 : -1) * compare(section.rows[a][column], section.rows[b][column]));
      body.replaceChildren(...order.map((index) => rows[index]));
    }
    return { element: scrolling(section.title, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)) };
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a ?? "").localeCompare(String(b ?? ""), undefined, { numeric: true });
  }

  function scatter(section) {
    const [left, right] = spread(section.x);
    const [bottom, top] = spread(section.line === "zero" ? [...section.y, 0] : section.y);
    const limits = section.line === "identity" ? [Math.min(left, bottom), Math.max(right, top)] : null;
    const label = `${section.title}: ${section.x.length} points, ${section.y_label} against ${section.x_label}`;
    const { svg, x, y } = frame(label, limits || [left, right], limits || [bottom, top], section.x_label, section.y_label);
    const line = { identity: limits && [limits[0], limits[0], limits[1], limits[1]], zero: [left, 0, right, 0] }[section.line];
    if (line) svg.append(shape("line", { class: "hl-compare", x1: x(line[0]), y1: y(line[1]), x2: x(line[2]), y2: y(line[3]) }));
    section.x.forEach((value, index) => svg.append(shape("circle", { class: "hl-point", cx: x(value), cy: y(section.y[index]), r: 3 },
      shape("title", {}, `${section.x_label} ${shown(value)}, ${section.y_label} ${shown(section.y[index])}`))));
    return { element: svg };
  }

  function histogram(section) {
    const { edges, counts } = section;
    const most = Math.max(...counts, 1);
    const label = `${section.title}: ${counts.length} ranges from ${shown(edges[0])} to ${shown(edges[edges.length - 1])}`;
    const { svg, x, y, box } = frame(label, [edges[0], edges[edges.length - 1]], [0, most * 1.04], section.x_label, "count", [480, 220]);
    counts.forEach((count, index) => svg.append(shape("rect", {
      class: "hl-bar", x: x(edges[index]), y: y(count), width: Math.max(x(edges[index + 1]) - x(edges[index]) - 1, 1),
      height: box.bottom - y(count),
    }, shape("title", {}, `${shown(edges[index])} to ${shown(edges[index + 1])}: ${shown(count)}`))));
    return { element: svg };
  }

  function bars(section) {
    const most = Math.max(...section.values.map((value) => Math.abs(value ?? 0)), Number.MIN_VALUE);
    const isSigned = section.values.some((value) => value < 0);
    const rows = section.labels.map((label, index) => {
      const value = section.values[index] ?? 0;
      const bar = make("div", { class: value < 0 ? "hl-fill hl-negative" : "hl-fill" });
      const share = (Math.abs(value) / most) * (isSigned ? 50 : 100);
      bar.style.width = `${share}%`;
      bar.style.marginLeft = isSigned ? `${value < 0 ? 50 - share : 50}%` : "0";
      return make("tr", {}, make("th", { scope: "row" }, label), make("td", { class: "hl-track" }, bar),
        make("td", { class: "hl-number" }, shown(section.values[index])));
    });
    const head = make("tr", {}, make("th", {}), make("th", {}), make("th", { class: "hl-number" }, section.value_label));
    return { element: scrolling(section.title, make("table", { class: "hl-bars" }, make("thead", {}, head), make("tbody", {}, ...rows))) };
  }

  function matrix(section) {
    const sums = section.counts.map((row) => row.reduce((sum, value) => sum + value, 0) || 1);
    const head = make("tr", {}, make("th", { scope: "col" }, `${section.row_title} ↓ ${section.column_title} →`),
      ...section.column_labels.map((label) => make("th", { scope: "col" }, label)));
    const rows = section.counts.map((row, index) => make("tr", {}, make("th", { scope: "row" }, section.row_labels[index]),
      ...row.map((value) => {
        const share = value / sums[index];
        const cell = make("td", { class: "hl-cell", title: `${(share * 100).toFixed(1)} % of the row` }, shown(value));
        cell.style.setProperty("--hl-share", `${Math.round(share * 55)}%`);
        return cell;
      })));
    return { element: scrolling(section.title, make("table", { class: "hl-matrix" }, make("thead", {}, head), make("tbody", {}, ...rows))) };
  }

  function text(section) {
    const parts = section.paragraphs.map((each) => make(section.is_preformatted ? "pre" : "p", section.is_preformatted ? { tabindex: "0" } : {}, each));
    return { element: make("div", { class: "hl-paragraphs" }, ...parts) };
  }

  function images(section) {
    return { element: make("div", { class: "hl-images" }, ...section.images.map((image) => make("figure", {},
      make("img", { src: `data:image/${image.format};base64,${image.data}`, alt: image.caption }),
      make("figcaption", {}, image.caption)))) };
  }

  function parallel(section) {
    const width = Math.max(640, 130 * section.axes.length), height = 300, top = 34, bottom = height - 30;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": section.title, class: "hl-svg" });
    const place = (index) => 60 + (index * (width - 120)) / Math.max(section.axes.length - 1, 1);
    const axes = section.axes.map((axis) => scaleOf(axis.values));
    section.labels.forEach((label, line) => {
      const points = axes.map((axis, index) => [place(index), bottom - axis.share(section.axes[index].values[line]) * (bottom - top)]);
      const values = section.axes.map((axis) => `${axis.name} ${shown(axis.values[line])}`).join(", ");
      svg.append(shape("polyline", {
        class: `hl-line hl-colour-${line % NUM_COLOURS}`, points: points.map((point) => point.join(",")).join(" "),
        "stroke-dasharray": DASHES[Math.floor(line / NUM_COLOURS) % DASHES.length].join(" "),
        tabindex: section.labels.length <= 50 ? "0" : undefined, role: "img", "aria-label": `${label}: ${values}`,
      }, shape("title", {}, `${label}\n${values}`)));
    });
    axes.forEach((axis, index) => {
      const x = place(index), name = section.axes[index].name;
      svg.append(shape("line", { class: "hl-upright", x1: x, x2: x, y1: top, y2: bottom }));
      svg.append(shape("text", { class: "hl-axis", x, y: 14, "text-anchor": "middle" }, name.length > 20 ? `…${name.slice(-19)}` : name, shape("title", {}, name)));
      svg.append(shape("text", { class: "hl-tick", x, y: top - 6, "text-anchor": "middle" }, axis.high));
      svg.append(shape("text", { class: "hl-tick", x, y: bottom + 16, "text-anchor": "middle" }, axis.low));
    });
    return { element: make("div", { class: "hl-scroll", tabindex: "0", role: "region", "aria-label": section.title }, svg) };
  }

  function scaleOf(values) {
    const there = values.filter((value) => value !== null);
    if (there.length && there.every((value) => typeof value === "number")) {
      const low = Math.min(...there), high = Math.max(...there);
      return { low: shown(low), high: shown(high), share: (v) => (v === null ? 0 : high > low ? (v - low) / (high - low) : 0.5) };
    }
    const names = [...new Set(there.map(String))];
    const share = (value) => (names.length > 1 ? Math.max(names.indexOf(String(value)), 0) / (names.length - 1) : 0.5);
    return { low: clipped(names[0] ?? ""), high: names.length > 1 ? clipped(names[names.length - 1]) : "", share };
  }

  const clipped = (name) => (name.length > 18 ? `${name.slice(0, 17)}…` : name);

  // ---- the page ----------------------------------------------------------------------------------------------

  const KINDS = { table, curves, scatter, histogram, bars, matrix, text, images, parallel };

  function drawSection(section, view) {
    const note = make("p", { class: "hl-note", hidden: !section.note }, section.note);
    const drawn = (KINDS[section.kind] || text)(KINDS[section.kind] ? section : { paragraphs: [`unknown kind ${section.kind}`] }, view);
    const element = make("section", { class: `hl-section hl-kind-${section.kind}`, "aria-label": section.title },
      make("h3", {}, section.title), drawn.element, note);
    return { element, section, update: drawn.update && ((next) => { drawn.update(next); note.textContent = next.note; note.hidden = !next.note; }) };
  }

  const keyOf = (section) => JSON.stringify([section.topic, section.kind, section.title]);

  function draw(parent, sections, { headings = true } = {}) {
    const view = { smoothing: 0, isLog: false, charts: new Set() };
    view.redraw = () => view.charts.forEach((chart) => chart.redraw());
    view.draw = () => view.charts.forEach((chart) => chart.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", view.draw);
    let drawn = [];

    function drawAll(all) {
      view.charts.clear();
      drawn = [];
      const topics = Object.keys(TOPICS).filter((topic) => all.some((section) => section.topic === topic));
      parent.replaceChildren(...topics.map((topic) => {
        const here = all.filter((section) => section.topic === topic);
        const id = `topic-${topic}`;
        const group = make("div", { class: `hl-topic hl-topic-${topic}`, id: headings ? id : undefined });
        if (headings) group.append(make("h2", {}, TOPICS[topic]));
        if (here.some((section) => section.kind === "curves" && section.is_trace)) group.append(controls(view));
        const grid = make("div", { class: "hl-grid-of-sections" });
        group.append(grid);
        for (const section of here) {
          const one = drawSection(section, view);
          drawn.push(one);
          grid.append(one.element);
        }
        return group;
      }));
    }

    function update(all) {
      const sorted = Object.keys(TOPICS).flatMap((topic) => all.filter((section) => section.topic === topic));
      if (drawn.map((one) => keyOf(one.section)).join() !== sorted.map(keyOf).join()) return drawAll(all);
      sorted.forEach((section, index) => {
        const one = drawn[index];
        if (JSON.stringify(one.section) === JSON.stringify(section)) return;
        if (one.update) {
          one.update(section);
          one.section = section;
        } else {
          drawn[index] = drawSection(section, view);
          one.element.replaceWith(drawn[index].element);
        }
      });
    }

    drawAll(sections);
    return { update };
  }

  // A report holds its sections in the page.
  function drawReport() {
    const data = JSON.parse(document.getElementById("hookline-sections").textContent);
    draw(document.querySelector("main"), data);
    const topics = Object.keys(TOPICS).filter((topic) => data.some((section) => section.topic === topic));
    document.querySelector("nav").replaceChildren(...topics.map((topic) => make("a", { href: `#topic-${topic}` }, TOPICS[topic])));
  }

  if (document.getElementById("hookline-sections")) drawReport();
  return { draw, drawReport };
})();
