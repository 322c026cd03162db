// What ran where and when: a bar for each attempt, in the slots of its host.

import { span, ticks } from "./charts.js";
import { bytes, count, h, plural, put, s, seconds, status } from "./dom.js";

const MAX_LANES = 96;
const SIGNS = { failed: "✕", lost: "?" };

export class Timeline {
  constructor() {
    this.place = h("div", { class: "plot" });
    this.detail = h("p", { class: "detail" });
    this.note = h("p", { class: "quiet" });
    this.legend = h("ul", { class: "legend" });
    this.element = h("section", { class: "timeline card" }, h("div", { class: "bar" }, h("h2", {}, "Tasks over time"), this.legend), this.place, this.detail, this.note);
    this.chosen = null;
  }

  draw(state) {
    const { shown, rest } = state.attempts;
    this.unit = state.unit;
    this.items = state.items;
    this.attempts = shown.filter((a) => a.started !== null);
    this.element.hidden = !shown.length && state.status === "local";
    this.note.textContent = rest.count ? `${plural(rest.count, "shorter attempt")} are not drawn: ${count(rest.rows_out)} ${state.unit}, ${seconds(rest.seconds)} in all.` : "";
    if (!this.attempts.length) {
      put(this.place, h("p", { class: "quiet" }, "No task has begun yet."));
      this.detail.textContent = "";
      return null;
    }
    const kinds = [["ok", "done"], ["running", "running"], ["failed", "failed"], ["lost", "lost"], ["twin", "done, another attempt counts"]];
    const present = new Set(this.attempts.map(kind));
    put(this.legend, kinds.filter(([k]) => present.has(k)).map(([k, word]) => h("li", {}, h("span", { class: `swatch t-${k}`, "aria-hidden": "true" }, SIGNS[k] ?? ""), word)));
    put(this.place, this.svg(state));
    this.tell();
    return null;
  }

  svg(state) {
    const width = Math.max(260, this.place.clientWidth || this.element.clientWidth - 34 || 600);
    const begin = Math.min(...this.attempts.map((a) => a.started));
    const end = Math.max(...this.attempts.map((a) => a.ended ?? a.heard), begin + 0.001);
    const lanes = assign(this.attempts, state.heard);
    const used = lanes.slice(0, MAX_LANES);
    if (lanes.length > MAX_LANES) this.note.textContent += ` ${lanes.length - MAX_LANES} slots are not drawn.`;
    const tall = used.length <= 16 ? 18 : used.length <= 40 ? 11 : 6;
    const px = (t) => ((t - begin) / (end - begin)) * (width - 2) + 1;
    const parts = [];
    let y = 0;
    let host = null;
    for (const lane of used) {
      if (lane.host !== host) {
        host = lane.host;
        parts.push(s("text", { x: 0, y: y + 12, class: "tick host" }, host || "unknown host"));
        y += 17;
      }
      parts.push(s("rect", { x: 0, y, width, height: tall, class: "lane" }));
      for (const attempt of lane.attempts) parts.push(this.bar(attempt, px, y, tall));
      y += tall + 3;
    }
    const axis = ticks(0, end - begin, Math.max(2, Math.floor(width / 110))).map((v) => {
      const x = px(begin + v);
      return [s("line", { x1: x, x2: x, y1: 0, y2: y, class: "grid" }), s("text", { x, y: y + 13, class: "tick", "text-anchor": x < 20 ? "start" : x > width - 30 ? "end" : "middle" }, span(v))];
    });
    const height = y + 18;
    return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Attempts of tasks; arrow keys go from one to the next" }, hatch(), axis, parts);
  }

  bar(a, px, y, tall) {
    const x = px(a.started);
    const wide = Math.max(3, px(a.ended ?? a.heard) - x - 1);
    const key = String(a.attempt);
    const first = this.chosen ? key === this.chosen : a === this.attempts[0];
    const sign = SIGNS[a.status] ?? (a.try > 1 ? "↻" : "");
    const label = `${sign}${sign ? " " : ""}${a.partition}`;
    const choose = () => this.choose(key);
    return s(
      "g",
      { class: `attempt t-${kind(a)}`, tabindex: first ? "0" : "-1", role: "img", "aria-label": words(a, this.unit), "data-key": key, onpointerenter: choose, onfocus: choose, onkeydown: (e) => this.key(e, a) },
      s("rect", { x, y, width: wide, height: tall, rx: 2 }),
      wide > 9 + 7 * label.length && tall > 10 ? s("text", { x: x + 5, y: y + tall / 2 + 4, class: "label" }, label) : sign && tall > 10 && wide > 8 ? s("text", { x: x + wide / 2, y: y + tall / 2 + 4, class: "label", "text-anchor": "middle" }, sign) : null,
    );
  }

  key(event, attempt) {
    const go = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!go) return;
    event.preventDefault();
    const next = this.attempts[(this.attempts.indexOf(attempt) + go + this.attempts.length) % this.attempts.length];
    this.place.querySelector(`[data-key="${next.attempt}"]`)?.focus();
  }

  choose(key) {
    this.chosen = key;
    for (const g of this.place.querySelectorAll(".attempt")) g.setAttribute("tabindex", g.dataset.key === key ? "0" : "-1");
    this.tell();
  }

  tell() {
    const a = this.attempts.find((b) => String(b.attempt) === this.chosen);
    if (!a) return put(this.detail, h("span", { class: "quiet" }, "Point at a bar, or go through them with the arrow keys, to see a task's figures."));
    const facts = [
      `on ${a.host || "?"}, process ${a.pid}`,
      `${seconds(a.seconds)}`,
      `${count(a.rows_in)} ${this.unit === "groups" ? "rows" : this.unit} in, ${count(a.rows_out)}${this.unit === "groups" ? " groups" : ""} out${a.bad ? `, ${count(a.bad)} bad` : ""}`,
      a.phase ? `now: ${a.phase}` : a.most ? `most time: ${{ load: "loading", starved: "waiting for input", model: this.items ? "working" : "model", encode: "making columns", write: "handing rows to Spark" }[a.most] ?? a.most}` : "",
      `processor ${seconds(a.cpu_seconds)}${a.seconds > 0 ? ` (${(a.cpu_seconds / a.seconds).toFixed(1)} of ${plural(a.cpus, "core")})` : ""}`,
      a.rss ? `memory ${bytes(a.rss)}` : "",
      a.gpu,
      a.counts ? "" : "not counted",
    ];
    put(this.detail, h("strong", {}, `Task ${a.partition}`), h("span", {}, `, try ${a.try} `), status(a.status), h("span", {}, ` · ${facts.filter(Boolean).join(" · ")}`));
  }
}

const kind = (a) => (a.status === "ok" && !a.counts ? "twin" : a.status);
const words = (a, unit) => `Task ${a.partition}, try ${a.try}, ${a.status === "ok" ? "done" : a.status}, ${seconds(a.seconds)}, ${count(a.rows_out)} ${unit}`;

/** Put attempts into the fewest lanes of their host in which none overlap. */
function assign(attempts, now) {
  const hosts = new Map();
  for (const a of [...attempts].sort((p, q) => p.started - q.started)) {
    const lanes = hosts.get(a.host) ?? hosts.set(a.host, []).get(a.host);
    let lane = lanes.find((l) => l.until <= a.started);
    if (!lane) lanes.push((lane = { host: a.host, until: 0, attempts: [] }));
    lane.attempts.push(a);
    lane.until = a.ended ?? Math.max(a.heard, now);
  }
  return [...hosts.keys()].sort().flatMap((name) => hosts.get(name));
}

function hatch() {
  return s("defs", {}, s("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("rect", { width: 6, height: 6, class: "hatch-back" }), s("rect", { width: 2, height: 6, class: "hatch-line" })));
}
