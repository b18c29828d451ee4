// The page of one run: its curves, which grow while it is at work, its details, checkpoints and log.
import { ask, badge, linkOf, make, pathOf, show, shown } from "./page.js";

const TABS = { curves: "Curves", details: "Details", checkpoints: "Checkpoints", log: "Log" };
const DETAILS_MS = 10000;
const MAX_LOG = 1000000;  // characters, about ten thousand lines

export function runPage(main, watch, run, tab) {
  document.title = `${run} – Hookline`;
  const head = make("div", { class: "facts" });
  const body = make("div", { class: "body" });
  const links = Object.entries(TABS).map(([name, title]) =>
    make("a", { href: linkOf(run, name), "aria-current": name === tab ? "page" : undefined }, title));
  main.replaceChildren(
    make("h1", {}, run), head, make("nav", { class: "tabs", "aria-label": "Parts of the run" }, ...links), body);
  watch.every(async () => {
    const about = await ask(pathOf(run));
    drawFacts(head, about);
    show(about.status === "running" ? "live" : "");
  });
  (PARTS[tab] || curves)(body, watch, run);
}

function drawFacts(head, about) {
  const facts = [badge(about.status), `epoch ${about.epochs} of ${about.num_epochs}`, `step ${about.step}`];
  if (about.best !== null) facts.push(`best ${about.metric} ${shown(about.best)}`);
  const parts = facts.map((fact) => make("span", {}, fact));
  parts.push(...about.tags.map((tag) => make("span", { class: "tag" }, tag)));
  if (about.problem) parts.push(make("span", { class: "bad" }, about.problem));
  if (about.note) parts.push(make("p", { class: "note" }, about.note));
  head.replaceChildren(...parts);
}

function curves(body, watch, run) {
  let version = -1, drawn = null;
  body.replaceChildren(make("p", { class: "hl-hint" }, "Reading the metrics…"));
  watch.every(async () => {
    do {
      const answer = await ask(pathOf(run, "/curves"), version < 0 ? [] : [["since", version]]);
      if (watch.isOver) return;
      version = answer.version;
      if (answer.sections) {
        if (drawn) drawn.update(answer.sections);
        else if (answer.sections.length) drawn = Hookline.draw(body, answer.sections, { headings: false });
        else body.replaceChildren(make("p", { class: "hl-hint" }, "There are no metrics yet. They appear here with the first evaluation."));
      }
      if (answer.is_complete) return;
    } while (!watch.isOver);
  });
}

function sections(part, restMs) {
  return (body, watch, run) => {
    let drawn = null;
    watch.every(async () => {
      const answer = await ask(pathOf(run, part));
      if (watch.isOver) return;
      if (drawn) drawn.update(answer.sections);
      else drawn = Hookline.draw(body, answer.sections, { headings: part === "/details" });
    }, restMs);
  };
}

function log(body, watch, run) {
  const text = make("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
  const box = make("input", { type: "checkbox", id: "follow", checked: true });
  const note = make("p", { class: "hl-hint" });
  body.replaceChildren(make("p", { class: "tools" }, make("label", { for: "follow" }, box, " Follow the end")), note, text);
  let offset = null, length = 0;
  text.addEventListener("scroll", () => {
    box.checked = text.scrollTop + text.clientHeight >= text.scrollHeight - 40;
  });
  box.addEventListener("change", () => { if (box.checked) text.scrollTop = text.scrollHeight; });
  watch.every(async () => {
    let answer;
    do {
      answer = await ask(pathOf(run, "/log"), offset === null ? [] : [["offset", offset]]);
      if (watch.isOver) return;
      if (answer.is_new) { text.replaceChildren(); length = 0; }
      if (offset === null && answer.is_cut) note.textContent = "The beginning of a long log is left out.";
      if (offset === null && !answer.text) note.textContent = "There is no log yet.";
      else if (answer.text && note.textContent.startsWith("There")) note.textContent = "";
      offset = answer.offset;
      if (answer.text) {
        const isFollowing = box.checked;
        text.append(answer.text);
        length += answer.text.length;
        while (length > MAX_LOG && text.childNodes.length > 1) {
          length -= text.firstChild.length;
          text.firstChild.remove();
        }
        if (isFollowing) text.scrollTop = text.scrollHeight;
        box.checked = isFollowing;
      }
    } while (answer.text && !watch.isOver);
  });
}

const PARTS = { curves, details: sections("/details", DETAILS_MS), checkpoints: sections("/checkpoints", DETAILS_MS), log };
