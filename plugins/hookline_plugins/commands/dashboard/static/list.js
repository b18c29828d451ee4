// The list of runs: of ten thousand, only the rows on the screen are elements.
import { ask, badge, duration, linkOf, make, moment, show, shown } from "./page.js";

const ROW_PX = 34;
const BESIDE = 10;  // rows drawn above and below those on the screen
const LIST_DIGITS = 4;
const MAX_CHOICES = 200;
const MAX_COMPARED = 50;
const STATUSES = ["running", "completed", "stopped", "interrupted", "failed", "lost", "unreadable"];

const FIXED = [
  { key: "name", title: "run", value: (row) => row.number, cell: nameCell },
  { key: "status", title: "status", value: (row) => row.status, cell: (row) => badge(row.status) },
  { key: "best", title: "best", value: (row) => row.best, cell: bestCell, isNumber: true },
  { key: "epochs", title: "epochs", value: (row) => row.epochs, cell: (row) => `${row.epochs}/${row.num_epochs}`, isNumber: true },
  { key: "time", title: "time", value: (row) => row.time_s, cell: (row) => duration(row.time_s), isNumber: true },
  { key: "started", title: "started", value: (row) => row.started, cell: (row) => moment(row.started) },
  { key: "tags", title: "tags and note", value: (row) => row.tags.join(" ") || row.note || null, cell: tagsCell },
];

function nameCell(row) {
  return make("a", { href: linkOf(row.name), title: row.problem || row.name }, row.name);
}

function bestCell(row) {
  if (row.best === null) return "";
  return make("span", { title: row.metric }, shown(row.best, LIST_DIGITS), make("span", { class: "soft" }, ` ${row.metric}`));
}

function tagsCell(row) {
  const tags = row.tags.map((tag) => make("span", { class: "tag" }, tag));
  return make("span", { title: row.note }, ...tags, make("span", { class: "soft" }, row.problem || row.note));
}

export function listPage(main, watch, words) {
  new List(main, watch, words).start();
}

class List {
  constructor(main, watch, words) {
    this.watch = watch;
    this.rows = new Map();
    this.shown = [];
    this.version = 0;
    this.columns = words.getAll("column");
    this.sort = words.get("sort") || "-name";
    this.chosen = new Set();
    this.active = 0;
    this.build(main, words);
  }

  build(main, words) {
    document.title = "Runs – Hookline";
    this.title = make("h1", {}, "Runs");
    this.search = make("input", { type: "search", id: "search", placeholder: "name, tag, note, or lr<0.01", "aria-label": "Search",
      value: words.get("q") || "", oninput: () => this.changed() });
    this.status = make("select", { "aria-label": "Status", onchange: () => this.changed() }, make("option", { value: "" }, "any status"),
      ...STATUSES.map((name) => make("option", { value: name, selected: name === words.get("status") }, name)));
    this.compare = make("a", { class: "button", role: "link", "aria-disabled": "true" }, "Compare");
    this.count = make("span", { class: "hl-hint", role: "status" });
    this.choices = make("div", { class: "choices" });
    this.find = make("input", { type: "search", "aria-label": "Search the columns", placeholder: "setting or metric", oninput: () => this.drawChoices() });
    this.chooser = make("details", { class: "chooser", ontoggle: () => this.openChooser() },
      make("summary", { class: "button" }, "Columns"), make("div", { class: "popup" }, this.find, this.choices));
    this.chooser.addEventListener("keydown", (event) => { if (event.key === "Escape") this.closeChooser(); });
    this.head = make("tr");
    this.above = make("td");
    this.below = make("td");
    this.body = make("tbody");
    this.drawn = new Map();
    const space = (cell) => make("tbody", { "aria-hidden": "true" }, make("tr", { class: "space" }, cell));
    this.table = make("table", { class: "runs" }, make("thead", {}, this.head), space(this.above), this.body, space(this.below));
    this.box = make("div", { class: "rows", tabindex: "0", role: "region", "aria-label": "Runs", onkeydown: (event) => this.press(event) }, this.table);
    this.hint = make("p", { class: "hl-hint" }, "Reading the runs…");
    main.replaceChildren(this.title, make("div", { class: "tools" }, this.search, this.status, this.chooser, this.compare, this.count), this.hint, this.box);
    this.box.addEventListener("scroll", () => this.drawSoon(), { passive: true });
    new ResizeObserver(() => this.drawSoon()).observe(this.box);
    this.drawHead();
  }

  start() {
    this.watch.every(async () => {
      const columns = this.columns;
      const answer = await ask("/api/runs", [["since", this.version], ...columns.map((name) => ["column", name])]);
      if (this.watch.isOver || columns !== this.columns) return;
      this.take(answer);
    });
  }

  take({ folder, changes }) {
    this.title.textContent = `Runs in ${folder}`;
    if (changes.is_whole) this.rows.clear();
    for (const row of changes.rows) {
      row.number = Number.parseInt(row.name, 10);
      row.text = [row.name, row.status, row.metric, row.note, ...row.tags].join("\n").toLowerCase();
      this.rows.set(row.name, row);
    }
    this.version = changes.version;
    const atWork = [...this.rows.values()].filter((row) => row.status === "running").length;
    show(atWork ? `${atWork} at work` : "");
    for (const name of this.chosen) if (!this.rows.has(name)) this.chosen.delete(name);
    if (changes.is_whole || changes.rows.length) this.arrange();
  }

  // ---- what is shown ---------------------------------------------------------------------------------------------

  all() {
    return [...FIXED, ...this.columns.map((name, index) => ({
      key: name, title: name.replace(/^metric:/, ""), value: (row) => row.cells[index],
      cell: (row) => shown(row.cells[index], LIST_DIGITS), isNumber: true,
    }))];
  }

  arrange() {
    const tests = this.tests();
    const column = this.all().find((one) => one.key === this.sort.replace(/^-/, "")) || FIXED[0];
    const sign = this.sort.startsWith("-") ? -1 : 1;
    const status = this.status.value;
    this.shown = [...this.rows.values()]
      .filter((row) => (!status || row.status === status) && tests.every((test) => test(row)))
      .map((row) => [column.value(row), row])
      .sort(([a, first], [b, second]) => inOrder(a, b, sign) || second.number - first.number)
      .map(([, row]) => row);
    this.active = Math.min(this.active, Math.max(this.shown.length - 1, 0));
    this.hint.hidden = this.shown.length > 0;
    this.box.hidden = !this.shown.length;
    this.hint.textContent = this.rows.size ? "No run is like that." : "There are no runs yet. Start one with: hookline train";
    this.count.textContent = this.shown.length === this.rows.size ? `${this.rows.size} runs` : `${this.shown.length} of ${this.rows.size} runs`;
    this.table.setAttribute("aria-rowcount", String(this.shown.length + 1));
    this.draw();
  }

  // Words of the search: a text, or a column, a sign and a value, such as lr<0.01.
  tests() {
    const columns = this.all();
    return this.search.value.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const [, name, sign, wanted] = /^([^<>=]+)([<>=])(.+)$/.exec(word) || [];
      const column = name && (columns.find((one) => one.title.toLowerCase() === name)
        || columns.find((one) => one.title.toLowerCase().split(/[./]/).pop() === name));
      if (!column) return (row) => row.text.includes(word);
      const number = Number(wanted);
      return (row) => {
        const value = column.value(row);
        if (sign === "=") return typeof value === "number" ? value === number : String(value ?? "").toLowerCase() === wanted;
        return typeof value === "number" && (sign === "<" ? value < number : value > number);
      };
    });
  }

  changed() {
    this.arrange();
    this.box.scrollTop = 0;
    this.active = 0;
    this.keep();
  }

  keep() {
    const words = new URLSearchParams();
    if (this.search.value) words.set("q", this.search.value);
    if (this.status.value) words.set("status", this.status.value);
    if (this.sort !== "-name") words.set("sort", this.sort);
    for (const name of this.columns) words.append("column", name);
    history.replaceState(null, "", `#/${words.size ? `?${words}` : ""}`);
  }

  // ---- drawing ---------------------------------------------------------------------------------------------------

  drawHead() {
    const key = this.sort.replace(/^-/, "");
    const order = this.sort.startsWith("-") ? "descending" : "ascending";
    this.head.replaceChildren(make("th", { class: "c-choose" }, make("span", { class: "hidden" }, "compare")), ...this.all().map((column) =>
      make("th", { scope: "col", class: classOf(column), "aria-sort": column.key === key ? order : "none" },
        make("button", { type: "button", title: column.title, onclick: () => this.sortBy(column.key) }, column.title))));
  }

  sortBy(key) {
    this.sort = this.sort === `-${key}` ? key : this.sort === key ? `-${key}` : key === "best" || key === "status" || key === "tags" ? key : `-${key}`;
    this.drawHead();
    this.changed();
  }

  drawSoon() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => { this.isWaiting = false; this.draw(); });
  }

  draw() {
    const first = Math.max(Math.floor(this.box.scrollTop / ROW_PX) - BESIDE, 0);
    const last = Math.min(first + Math.ceil(this.box.clientHeight / ROW_PX) + 2 * BESIDE, this.shown.length);
    this.above.style.height = `${first * ROW_PX}px`;
    this.below.style.height = `${(this.shown.length - last) * ROW_PX}px`;
    this.place(this.shown.slice(first, last).map((row, index) => this.elementOf(row, first + index)));
  }

  // Rows that stay are left alone: a browser would scroll elsewhere when the one that has the focus is taken out.
  place(wanted) {
    const kept = new Set(wanted), focused = document.activeElement;
    const lost = this.body.contains(focused) && !kept.has(focused.closest("tr")) ? focused.closest("tr").dataset.run : null;
    let next = this.body.firstChild;
    for (const row of wanted) {
      while (next && !kept.has(next)) next = next.nextSibling;
      if (row === next) next = next.nextSibling;
      else this.body.insertBefore(row, next);
    }
    for (const row of [...this.body.children]) if (!kept.has(row)) row.remove();
    if (lost === null) return;
    const again = wanted.find((row) => row.dataset.run === lost);
    (again ? again.querySelector(focused.type === "checkbox" ? "input" : "a") : this.box).focus({ preventScroll: true });
  }

  // The element of a row, the same one until the row, its place or the columns change.
  elementOf(row, index) {
    const known = this.drawn.get(row.name);
    if (known && known.row === row && known.index === index && known.columns === this.columns) return known.element;
    const element = this.rowOf(row, index, this.all());
    if (this.drawn.size > 10 * MAX_CHOICES) this.drawn.clear();
    this.drawn.set(row.name, { row, index, columns: this.columns, element });
    return element;
  }

  rowOf(row, index, columns) {
    const box = make("input", { type: "checkbox", "aria-label": `Compare ${row.name}`, onchange: () => this.choose(row.name, box.checked) });
    box.checked = this.chosen.has(row.name);
    const cells = columns.map((column) => make("td", { class: classOf(column) }, column.cell(row)));
    const element = make("tr", { "aria-rowindex": index + 2, onfocusin: () => { this.active = index; } }, make("td", { class: "c-choose" }, box), ...cells);
    element.dataset.run = row.name;
    return element;
  }

  choose(name, isChosen) {
    if (isChosen) this.chosen.add(name);
    else this.chosen.delete(name);
    const number = this.chosen.size;
    const isReady = number > 1 && number <= MAX_COMPARED;
    this.compare.textContent = number > MAX_COMPARED ? `Compare at most ${MAX_COMPARED}` : number ? `Compare ${number}` : "Compare";
    this.compare.setAttribute("aria-disabled", String(!isReady));
    if (isReady) this.compare.setAttribute("href", `#/compare?${new URLSearchParams([...this.chosen].map((run) => ["run", run]))}`);
    else this.compare.removeAttribute("href");
  }

  // Arrows move from row to row, the space bar chooses a run for the comparison, Enter opens it as any link.
  press(event) {
    const page = Math.max(Math.floor(this.box.clientHeight / ROW_PX) - 2, 1);
    const isInRow = this.body.contains(event.target);
    const moves = { ArrowDown: isInRow ? 1 : 0, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.shown.length, End: this.shown.length };
    if (event.key in moves && this.shown.length) {
      this.goTo(Math.min(Math.max(this.active + moves[event.key], 0), this.shown.length - 1));
      event.preventDefault();
    } else if (event.key === " " && event.target.tagName === "A") {
      const box = event.target.closest("tr").querySelector("input");
      box.click();
      event.preventDefault();
    }
  }

  goTo(index) {
    const top = index * ROW_PX, head = ROW_PX;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + head + ROW_PX > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + head + ROW_PX - this.box.clientHeight + 16;
    this.active = index;
    this.draw();
    const name = this.shown[index].name;
    [...this.body.children].find((row) => row.dataset.run === name)?.querySelector("a").focus({ preventScroll: true });
  }

  // ---- columns ---------------------------------------------------------------------------------------------------

  async openChooser() {
    if (!this.chooser.open) return;
    this.find.focus();
    try {
      const { settings, metrics } = await ask("/api/columns");
      const differing = settings.filter((one) => one.varies), same = settings.filter((one) => !one.varies);
      this.known = [...differing.map((one) => one.name), ...metrics.map((name) => `metric:${name}`), ...same.map((one) => one.name)];
      this.differing = new Set(differing.map((one) => one.name));
    } catch (error) {
      show(error.message, true);
    }
    this.drawChoices();
  }

  closeChooser() {
    this.chooser.open = false;
    this.chooser.querySelector("summary").focus();
  }

  drawChoices() {
    const wanted = this.find.value.toLowerCase();
    const found = (this.known || []).filter((name) => name.toLowerCase().includes(wanted));
    const shownFirst = [...this.columns.filter((name) => found.includes(name)), ...found.filter((name) => !this.columns.includes(name))];
    const items = shownFirst.slice(0, MAX_CHOICES).map((name) => {
      const box = make("input", { type: "checkbox", checked: this.columns.includes(name), onchange: () => this.setColumn(name, box.checked) });
      const kind = name.startsWith("metric:") ? "metric" : this.differing.has(name) ? "differs" : "";
      return make("label", {}, box, make("span", {}, name.replace(/^metric:/, "")), make("span", { class: "soft" }, kind));
    });
    const rest = found.length > items.length ? [make("p", { class: "hl-hint" }, `and ${found.length - items.length} more`)] : [];
    this.choices.replaceChildren(...items, ...rest);
  }

  async setColumn(name, isShown) {
    this.columns = isShown ? [...this.columns, name] : this.columns.filter((one) => one !== name);
    const columns = this.columns;
    const answer = await ask("/api/runs", columns.map((one) => ["column", one]));
    if (columns !== this.columns || this.watch.isOver) return;
    this.drawHead();
    this.take(answer);
    this.keep();
  }
}

const classOf = (column) => `${FIXED.includes(column) ? `c-${column.key}` : "c-more"}${column.isNumber ? " hl-number" : ""}`;

// Runs without a value come last in either direction; numbers come before texts.
function inOrder(a, b, sign) {
  const isA = a !== null && a !== undefined && a !== "", isB = b !== null && b !== undefined && b !== "";
  if (!isA || !isB) return isB - isA;
  if (typeof a !== typeof b) return (typeof a === "number" ? -1 : 1);
  return a < b ? -sign : a > b ? sign : 0;
}
