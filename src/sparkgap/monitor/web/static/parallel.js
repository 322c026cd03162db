// Parallel coordinates: an axis for each parameter and value, a line for each trial. On narrow screens the axes lie flat.

import { h, put, s, word } from "./dom.js";

const NARROW = 92;
const MAX_AXES = 16;
const TALL = 300;
const ROW = 62;
const GAP = -0.12;
const NEAR = 28;

export class Parallel {
  constructor({ choose, brushed, resized }) {
    this.tell = { choose, brushed };
    this.ranges = new Map();
    this.busy = false;
    this.chosen = null;
    this.place = h("div", { class: "axes" });
    new ResizeObserver(() => this.svg && !this.busy && this.place.clientWidth > 260 && this.place.clientWidth !== this.width && resized()).observe(this.place);
    this.clear = h("button", { type: "button", hidden: true, onclick: () => this.reset() }, "Show all ranges again");
    this.note = h("p", { class: "quiet" });
    this.element = h("div", { class: "parallel" }, this.place, h("div", { class: "scale" }, h("span", { class: "quiet" }, "best"), ramp(), h("span", { class: "quiet" }, "worst"), key("pruned"), key("failed"), key("running"), this.clear), this.note);
  }

  draw({ trials, axes, shade }) {
    this.axes = axes.length > MAX_AXES ? [...axes.filter((a) => !a.last).slice(0, MAX_AXES - axes.filter((a) => a.last).length), ...axes.filter((a) => a.last)] : axes;
    this.note.textContent = this.axes.length < axes.length ? `${axes.length - this.axes.length} further parameters are on the leaderboard only.` : "";
    this.trials = trials;
    this.shade = shade;
    this.low = axes.some((a) => a.gaps && trials.some((t) => a.at(t) === null)) ? GAP : 0;
    this.frame();
    const present = new Set(trials.map((t) => t.state));
    for (const state of ["pruned", "failed", "running"]) this.element.querySelector(`.key.${state}`).hidden = !present.has(state);
    const ordered = [...trials].sort((a, b) => (shade(b) ?? 99) - (shade(a) ?? 99) || b.number - a.number);
    this.lines = new Map(ordered.map((t) => [t.number, this.line(t)]));
    this.over = s("g", { class: "over" });
    this.paths = s("g", { class: `paths ${trials.length > 250 ? "crowd" : ""}` }, [...this.lines.values()].map((l) => l.path));
    const label = `${trials.length} trials on ${this.axes.length} axes; arrow keys go from the best to the next`;
    this.svg = s("svg", { width: this.width, height: this.height, viewBox: `0 0 ${this.width} ${this.height}`, tabindex: "0", role: "group", "aria-label": label, "data-key": "parallel" }, this.paths, this.axes.map((a, i) => this.axis(a, i)), this.over);
    this.svg.addEventListener("pointermove", (e) => this.busy || this.tell.choose(this.nearest(e)));
    this.svg.addEventListener("pointerdown", (e) => this.busy || this.tell.choose(this.nearest(e)));
    this.svg.addEventListener("pointerleave", (e) => this.busy || e.pointerType !== "mouse" || this.tell.choose(null)); // a tap stays
    this.svg.addEventListener("keydown", (e) => this.step(e));
    put(this.place, this.svg);
    this.sift();
  }

  /** Where axes stand: upright beside each other, or flat below each other. */
  frame() {
    this.width = Math.max(260, this.place.clientWidth || 600);
    const n = this.axes.length;
    this.flat = this.width / n < NARROW;
    this.height = this.flat ? n * ROW + 6 : TALL + 62;
    const [left, right] = this.flat ? [14, 14] : [58, 76];
    const space = (this.width - left - right) / Math.max(1, n - 1);
    this.space = space;
    const along = (t) => (t - this.low) / (1 - this.low);
    this.at = this.flat
      ? (i, t) => [left + along(t) * (this.width - left - right), 30 + i * ROW]
      : (i, t) => [n === 1 ? this.width / 2 : left + i * space, 44 + (1 - along(t)) * TALL];
    this.back = (x, y) => (this.flat ? (x - left) / (this.width - left - right) : 1 - (y - 44) / TALL) * (1 - this.low) + this.low;
  }

  line(t) {
    const points = [];
    this.axes.forEach((a, i) => {
      const place = a.at(t);
      if (place !== null) points.push(this.at(i, place));
      else if (a.gaps) points.push(this.at(i, GAP));
    });
    const d = points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    const shade = this.shade(t);
    return { trial: t, points, d, path: s("path", { d, class: `trial ${t.state} ${shade === null ? "" : `v${shade}`}` }) };
  }

  axis(a, i) {
    const [x0, y0] = this.at(i, 0);
    const [x1, y1] = this.at(i, 1);
    const end = !this.flat && i === this.axes.length - 1 && i > 0;
    const marks = a.marks(this.flat ? Math.max(2, Math.floor(this.width / 110)) : 5);
    if (a.gaps && this.low < 0) marks.push({ t: GAP, label: "not set" });
    const tick = ({ t, label }) => {
      const [x, y] = this.at(i, t);
      const anchor = this.flat ? (x < 40 ? "start" : x > this.width - 40 ? "end" : "middle") : end ? "start" : "end";
      const shown = this.flat ? label : fit(label, end ? 66 : Math.min(this.space - 16, 120));
      return [
        s("line", this.flat ? { x1: x, x2: x, y1: y - 3, y2: y + 3, class: "axis" } : { x1: x - 3, x2: x + 3, y1: y, y2: y, class: "axis" }),
        s("text", { x: this.flat ? x : x + (end ? 8 : -7), y: this.flat ? y + 16 : y + 4, class: "tick", "text-anchor": anchor }, shown, shown === label ? null : s("title", {}, label)),
      ];
    };
    const room = this.flat ? this.width - 30 : Math.max(60, this.space - 8);
    const anchor = this.flat ? "start" : i === 0 && this.axes.length > 1 ? "start" : end ? "end" : "middle";
    const nx = this.flat ? 14 : i === 0 && this.axes.length > 1 ? 4 : end ? this.width - 4 : x0;
    const note = a.note ?? (a.log ? "log" : "");
    const title = this.flat
      ? [s("text", { x: nx, y: y0 - 12, class: "name" }, fit(a.name, room - 130), s("title", {}, a.name)), note ? s("text", { x: this.width - 14, y: y0 - 12, class: "tick", "text-anchor": "end" }, note) : null]
      : [s("text", { x: nx, y: 14, class: "name", "text-anchor": anchor }, fit(a.name, room), s("title", {}, a.name)), note ? s("text", { x: nx, y: 28, class: "tick", "text-anchor": anchor }, fit(note, Math.max(room, 60) + 40)) : null];
    const range = this.ranges.get(a.key);
    const group = s(
      "g",
      { class: "one-axis" },
      s("line", { x1: x0, y1: y0, x2: x1, y2: y1, class: `axis ${a.last ? "result" : ""}` }),
      marks.map(tick),
      title,
      range ? this.band(i, range) : null,
      s("rect", { ...this.strip(i), class: "grip" }, s("title", {}, `${a.name}: drag to choose a range, click to choose all`)),
    );
    group.lastChild.addEventListener("pointerdown", (e) => this.brush(e, a, i, group));
    return group;
  }

  strip(i, from = this.low - 0.02, to = 1.02, half = 9) {
    const [x0, y0] = this.at(i, from);
    const [x1, y1] = this.at(i, to);
    return this.flat ? { x: x0, y: y0 - half, width: Math.max(1, x1 - x0), height: 2 * half } : { x: x0 - half, y: y1, width: 2 * half, height: Math.max(1, y0 - y1) };
  }

  band(i, [from, to]) {
    return s("rect", { ...this.strip(i, from, to, 6), rx: 3, class: "band" });
  }

  /** Choose a range of an axis by dragging along it; a click takes it back. */
  brush(event, a, i, group) {
    event.stopPropagation();
    event.preventDefault();
    const box = this.svg.getBoundingClientRect();
    const where = (e) => this.back(e.clientX - box.left, e.clientY - box.top);
    const start = where(event);
    const grip = event.target;
    grip.setPointerCapture(event.pointerId);
    this.busy = true;
    const move = (e) => {
      const range = [start, where(e)].sort((p, q) => p - q);
      group.querySelector(".band")?.remove();
      if (range[1] - range[0] < 0.015) this.ranges.delete(a.key);
      else {
        this.ranges.set(a.key, range);
        group.insertBefore(this.band(i, range), grip);
      }
      this.sift();
    };
    const end = () => {
      this.busy = false;
      this.tell.brushed();
    };
    move(event);
    grip.addEventListener("pointermove", move);
    grip.addEventListener("lostpointercapture", () => (grip.removeEventListener("pointermove", move), end()), { once: true });
  }

  reset() {
    this.ranges.clear();
    for (const band of this.svg.querySelectorAll(".band")) band.remove();
    this.sift();
    this.tell.brushed();
  }

  passes(t) {
    for (const a of this.axes) {
      const range = this.ranges.get(a.key);
      if (!range) continue;
      const place = a.at(t) ?? (a.gaps ? GAP : null);
      if (place === null || place < range[0] || place > range[1]) return false;
    }
    return true;
  }

  sift() {
    for (const { trial, path } of this.lines.values()) path.classList.toggle("out", !this.passes(trial));
    this.clear.hidden = !this.ranges.size;
  }

  nearest(event) {
    const box = this.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [found, least] = [null, NEAR];
    for (const { trial, points } of this.lines.values()) {
      if (this.ranges.size && !this.passes(trial)) continue;
      for (let i = 1; i < points.length; i += 1) {
        const away = distance(x, y, points[i - 1], points[i]);
        if (away <= least) [found, least] = [trial.number, away];
      }
    }
    return found;
  }

  step(event) {
    const go = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const among = this.trials.filter((t) => this.passes(t));
    if (!go || !among.length) return;
    event.preventDefault();
    const at = among.findIndex((t) => t.number === this.chosen);
    this.tell.choose(among[at < 0 ? 0 : (at + go + among.length) % among.length].number);
  }

  /** Bring one line out, with its values on the axes. */
  choose(number) {
    this.chosen = number;
    const line = this.lines.get(number);
    this.svg.classList.toggle("choosing", !!line);
    this.over.replaceChildren();
    if (!line) return;
    const shade = this.shade(line.trial);
    this.over.append(s("path", { d: line.d, class: "halo" }), s("path", { d: line.d, class: `trial ${line.trial.state} ${shade === null ? "" : `v${shade}`}` }));
    this.axes.forEach((a, i) => {
      const place = a.at(line.trial);
      if (place === null) return;
      const [x, y] = this.at(i, place);
      const end = !this.flat && i === this.axes.length - 1 && i > 0;
      const anchor = this.flat ? (x < 50 ? "start" : x > this.width - 50 ? "end" : "middle") : end ? "end" : "start";
      this.over.append(s("circle", { cx: x, cy: y, r: 4, class: "dot" }), s("text", { x: this.flat ? x : x + (end ? -8 : 8), y: this.flat ? y + 17 : y - 7, class: "mark", "text-anchor": anchor }, fit(word(a.value(line.trial)), this.flat ? 160 : Math.max(60, this.space - 24))));
    });
  }
}

function distance(x, y, [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const t = Math.max(0, Math.min(1, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - x0 - t * dx, y - y0 - t * dy);
}

const fit = (text, room) => (text.length * 6.6 <= room ? text : `${text.slice(0, Math.max(3, Math.floor(room / 6.6) - 1))}…`);
const ramp = () => h("span", { class: "ramp", "aria-hidden": "true" }, Array.from({ length: 10 }, (_, i) => h("span", { class: `w${i}` })));
const key = (state) => h("span", { class: `key ${state} quiet` }, s("svg", { width: 26, height: 10, "aria-hidden": "true" }, s("path", { d: "M1 5H25", class: `trial ${state}` })), state);
