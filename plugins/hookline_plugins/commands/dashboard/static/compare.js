// The page that compares runs: what differs, their results, and their curves over each other.
import { ask, linkOf, make } from "./page.js";

const DETAILS_MS = 10000;

export function comparePage(main, watch, runs) {
  document.title = "Comparison – Hookline";
  const curves = make("div"), rest = make("div");
  const names = runs.map((run) => make("li", {}, make("a", { href: linkOf(run) }, run)));
  main.replaceChildren(make("h1", {}, runs.length === 1 ? "Comparison of 1 run" : `Comparison of ${runs.length} runs`),
    make("ul", { class: "names" }, ...names), curves, rest);
  if (!runs.length) {
    rest.append(make("p", {}, "Choose runs in the ", make("a", { href: "#/" }, "list"), "."));
    return;
  }
  const query = runs.map((run) => ["run", run]);
  let drawn = null, lines = null, version = null;
  watch.every(async () => {
    const answer = await ask("/api/compare", query);
    if (watch.isOver) return;
    if (drawn) drawn.update(answer.sections);
    else drawn = Hookline.draw(rest, answer.sections, { headings: false });
  }, DETAILS_MS);
  watch.every(async () => {
    let answer;
    do {
      answer = await ask("/api/compare/curves", version === null ? query : [...query, ["since", version]]);
      if (watch.isOver) return;
      version = answer.version;
      if (!answer.sections) continue;
      if (lines) lines.update(answer.sections);
      else lines = Hookline.draw(curves, answer.sections, { headings: false });
    } while (!answer.is_complete && !watch.isOver);
  });
}
