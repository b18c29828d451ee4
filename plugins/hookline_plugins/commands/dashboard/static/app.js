// The dashboard: the address after "#" chooses a page. Every text of a run becomes a text node.
import { comparePage } from "./compare.js";
import { listPage } from "./list.js";
import { Watch, make, show } from "./page.js";
import { runPage } from "./run.js";

const main = document.getElementById("main");
let watch = new Watch();
let shownPage = "";

function route() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  const words = new URLSearchParams(query);
  const page = parts.slice(0, 2).join("/") + (parts[0] === "compare" ? query : "");
  // The list keeps its state in the address, and is not drawn again for that.
  if (page === shownPage && page === "") return;
  watch.end();
  watch = new Watch();
  const isFirst = shownPage === "";
  shownPage = page;
  show("");
  main.classList.toggle("wide", !parts.length);
  if (parts[0] === "run" && parts[1]) runPage(main, watch, parts[1], parts[2] || "curves");
  else if (parts[0] === "compare") comparePage(main, watch, words.getAll("run"));
  else if (!parts.length) listPage(main, watch, words);
  else main.replaceChildren(make("p", {}, "There is no such page. ", make("a", { href: "#/" }, "All runs")));
  if (!isFirst) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

addEventListener("hashchange", route);
shownPage = null;
route();
