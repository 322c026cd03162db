// The latest lines of logging and print, filtered by level and text.

import { clock, count, h, put } from "./dom.js";

const LEVELS = { DEBUG: 10, PRINT: 20, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50 };

export class Logs {
  constructor() {
    this.level = h(
      "select",
      { onchange: () => this.show() },
      [["0", "all"], ["20", "info and above"], ["30", "warnings and above"], ["40", "errors"]].map(([v, t]) => h("option", { value: v }, t)),
    );
    this.text = h("input", { type: "search", placeholder: "text or logger", oninput: () => this.show() });
    this.lines = h("ol", { class: "lines", tabindex: "0", "aria-label": "Log lines" });
    this.note = h("p", { class: "quiet" });
    this.filters = h("div", { class: "filters" }, h("label", {}, "Level ", this.level), h("label", {}, "Contains ", this.text));
    this.element = h("section", { class: "logs card" }, h("div", { class: "bar" }, h("h2", {}, "Logs"), this.filters), this.lines, this.note);
    this.told = "";
  }

  update(state) {
    const last = state.logs.at(-1);
    const told = JSON.stringify([state.run, state.log_count, last?.time]);
    if (told === this.told) return;
    this.told = told;
    this.logs = state.logs;
    this.count = state.log_count;
    this.show();
  }

  show() {
    if (!this.logs) return;
    const least = Number(this.level.value);
    const text = this.text.value.toLowerCase();
    const found = this.logs.filter((l) => (LEVELS[l.level] ?? 20) >= least && (!text || `${l.logger} ${l.text}`.toLowerCase().includes(text)));
    const atEnd = this.lines.scrollHeight - this.lines.scrollTop - this.lines.clientHeight < 30;
    put(this.lines, found.map(line));
    if (atEnd) this.lines.scrollTop = this.lines.scrollHeight;
    this.filters.hidden = this.lines.hidden = !this.logs.length;
    this.note.textContent = !this.logs.length
      ? "Nothing logged yet. What tasks log (from INFO on) or print appears here."
      : `${count(found.length)} shown of the latest ${count(this.logs.length)}; ${count(this.count)} in all.`;
  }
}

function line(log) {
  const who = log.partition === null ? "driver" : `task ${log.partition}`;
  return h(
    "li",
    { class: `line ${log.level.toLowerCase().replace(/[^a-z]/g, "")}` },
    h("span", { class: "quiet" }, clock(log.time)),
    h("span", { class: "level" }, log.level),
    h("span", { class: "quiet" }, who),
    h("span", { class: "text" }, log.text),
  );
}
