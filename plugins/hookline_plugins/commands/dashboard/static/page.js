// Parts of every page: elements, requests, addresses, and the watch that repeats a request while somebody looks.

const POLL_MS = 2000;
const state = document.getElementById("state");

/** Make an element; strings become text nodes, and keys that begin with "on" handlers. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Ask the server for JSON; an error says what is wrong. */
export async function ask(path, query = []) {
  const words = new URLSearchParams(query.map(([key, value]) => [key, String(value)])).toString();
  const response = await fetch(words ? `${path}?${words}` : path);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

/** Return the path of the data of a run. */
export const pathOf = (run, part = "") => `/api/runs/${encodeURIComponent(run)}${part}`;

/** Return the address of a page about a run. */
export const linkOf = (run, tab = "curves") => `#/run/${encodeURIComponent(run)}/${tab}`;

export function show(text, isBad = false) {
  if (state.textContent !== text) state.textContent = text;
  state.classList.toggle("bad", isBad);
}

/** Repeat a task until the page is left; it rests while the page is hidden, and longer after a long answer. */
export class Watch {
  constructor() {
    this.isOver = false;
    this.timers = new Set();
  }

  async every(task, restMs = POLL_MS) {
    while (!this.isOver) {
      const begin = performance.now();
      let rest = restMs;
      try {
        if (!document.hidden && (await task()) === false) return;
      } catch (error) {
        if (!this.isOver) show(error instanceof TypeError ? "the server does not answer" : error.message, true);
        rest = 2 * restMs;
      }
      await this.sleep(Math.max(rest, 5 * (performance.now() - begin)));
    }
  }

  sleep(ms) {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", look);
        this.timers.delete(wake);
        resolve();
      };
      const look = () => document.hidden || wake();
      const timer = setTimeout(wake, ms);
      document.addEventListener("visibilitychange", look);
      this.timers.add(wake);
    });
  }

  end() {
    this.isOver = true;
    for (const wake of [...this.timers]) wake();
  }
}

/** Format a number in six digits, or in as many as given. */
export function shown(value, digits = 6) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  return value !== 0 && (size < 1e-4 || size >= 1e9) ? value.toExponential(3) : String(Number(value.toPrecision(digits)));
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

export function moment(text) {
  if (!text) return "";
  const time = new Date(text);
  const two = (number) => String(number).padStart(2, "0");
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())}`;
}

export const badge = (status) => make("span", { class: `badge badge-${status}` }, status);
