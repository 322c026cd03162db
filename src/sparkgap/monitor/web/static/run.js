// One run. What matters comes first: how far, how fast, what limits it, what failed.

import { lineChart } from "./charts.js";
import { h, isNumber, put, rate, status } from "./dom.js";
import { Gallery } from "./gallery.js";
import { Logs } from "./logs.js";
import { badRows, dropped, facts, failures, firstFailure, latency, limits, numbers, stages } from "./parts.js";
import { ranks } from "./ranks.js";
import { Search } from "./search.js";
import { Timeline } from "./timeline.js";

export class RunView {
  constructor(root) {
    this.root = root;
    this.told = new Map();
    this.timeline = new Timeline();
    this.gallery = new Gallery();
    this.search = new Search();
    this.logs = new Logs();
    this.places = {};
    this.waiting = h("p", { class: "empty" }, "Reading the run …");
    root.append(this.waiting);
    this.width = 0;
    this.resize = new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (this.width && width !== this.width && this.state) {
        this.told.clear(); // charts are drawn for a width
        this.update(this.state);
      }
      this.width = width;
    });
    this.resize.observe(root);
  }

  end() {
    this.resize.disconnect();
  }

  absent() {
    this.waiting.textContent = "There is no such run: it may be too old to be kept.";
  }

  update(state) {
    if (!this.state) this.build();
    this.state = state;
    const { attempts, ...top } = state;
    this.part("head", [top.name, top.status, top.kind, top.run, top.can_stop], () => head(state));
    this.part("numbers", [top.status, top.done, top.running, top.tasks, top.rows_out, top.rate, top.recent, top.elapsed, top.failures, top.totals, top.search?.counts, attempts.status], () => numbers(state));
    this.part("limits", [top.found, top.phases, top.unmeasured], () => limits(state));
    this.part("first", [top.failed[0], top.failures, top.status, top.search?.counts.failed, attempts.status], () => firstFailure(state));
    this.part("ranks", [top.ranks], () => ranks(state));
    this.part("stages", [top.stages], () => stages(state));
    this.part("curves", [top.search ?? top.throughput, top.metrics], () => curves(state, this.places.curves));
    this.part("failures", [top.failed, top.failures], () => failures(state));
    this.part("bad", [top.reasons, top.examples, top.totals], () => badRows(state));
    this.part("latency", [top.latency], () => latency(state, this.places.latency));
    this.part("dropped", [top.dropped, top.forgotten], () => dropped(state));
    this.part("facts", [top.details, top.run, top.started], () => facts(state));
    this.part("timeline", [attempts], () => this.timeline.draw(state));
    this.search.update(state);
    this.gallery.update(state);
    this.logs.update(state);
  }

  /** Draw a part anew where what it shows has changed. */
  part(name, shown, make) {
    const text = JSON.stringify(shown);
    if (this.told.get(name) === text) return;
    this.told.set(name, text);
    const made = make();
    if (made) {
      put(this.places[name], made);
      this.places[name].hidden = made.length === 0;
    }
  }

  build() {
    const place = (name, tag = "section", cls = "") => (this.places[name] = h(tag, { class: `${name} ${cls}`.trim() }));
    this.waiting.remove();
    this.places.timeline = h("div", { hidden: true });
    this.root.append(
      place("head", "div"),
      place("numbers", "section", "card"),
      this.search.element,
      h("div", { class: "pair" }, place("limits", "section", "card"), place("first", "section", "card")),
      place("ranks", "section", "card"),
      this.timeline.element,
      place("stages", "section", "card"),
      place("curves"),
      this.gallery.element,
      place("failures", "section", "card"),
      h("div", { class: "pair even" }, place("latency", "section", "card"), place("bad", "section", "card")),
      this.logs.element,
      h("div", { class: "pair even" }, place("facts", "section", "card"), place("dropped", "section", "card")),
    );
  }
}

function head(state) {
  const parts = [h("h1", {}, state.name), status(state.status), h("p", { class: "quiet" }, [state.kind, state.run].filter(Boolean).join(" · "))];
  if (state.can_stop && state.status !== "done") parts.push(stopper(state));
  return parts;
}

/** A button that asks once more: what it ends is gone. */
function stopper(state) {
  const button = h("button", { class: "stop" }, "Cancel the run");
  let sure = false;
  button.addEventListener("click", async () => {
    if (!sure) {
      sure = true;
      button.textContent = "Really cancel?";
      return;
    }
    button.disabled = true;
    button.textContent = "Cancelling …";
    const answer = await fetch(`/api/runs/${encodeURIComponent(state.run)}/stop`, { method: "POST", headers: { "X-Requested-By": "sparkgap" } });
    if (!answer.ok) button.textContent = (await answer.json()).error;
  });
  return button;
}

function curves(state, place) {
  const charts = [];
  const begin = state.throughput[0]?.[0] ?? state.started;
  if (state.search) charts.push(...history(state.search));
  else if (state.throughput.length) {
    const points = state.throughput.map(([t, v]) => [t, null, v]);
    charts.push([`Throughput, ${state.unit}/s`, [{ partition: null, points }], rate, `each task's ${state.unit}, spread evenly over its time`]);
  }
  for (const metric of state.metrics) charts.push([metric.name, metric.lines, undefined, ""]);
  if (!charts.length) return [];
  const columns = place.clientWidth >= 1000 ? 3 : place.clientWidth >= 560 ? 2 : 1;
  const width = ((place.clientWidth || 320) - 12 * (columns - 1)) / columns - 34;
  const grid = h("div", { class: "charts" }, charts.map(([name, lines, format, note]) => lineChart({ name, lines, begin, width, format, note })));
  grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  return [h("h2", {}, state.search ? "Progress and metrics" : "Throughput and metrics"), grid];
}

/** The best value by the number of its trial, of a search with one objective. */
function history({ directions, columns, trials }) {
  if (directions.length > 1) return [];
  const [number, state, values, started] = ["number", "state", "values", "started"].map((c) => columns.indexOf(c));
  const better = directions[0] === "maximize" ? Math.max : Math.min;
  const complete = trials.filter((t) => t[state] === "complete" && isNumber(t[values][0])).sort((a, b) => a[number] - b[number]);
  let best = null;
  const points = complete.map((t) => [t[started], t[number], (best = best === null ? t[values][0] : better(best, t[values][0]))]);
  return points.length ? [["Best value so far, by trial", [{ partition: null, points }], undefined, ""]] : [];
}
