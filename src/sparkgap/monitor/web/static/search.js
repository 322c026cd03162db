// A search: its trials on parallel axes and on a leaderboard. Both show the same choice, and point at the same trial.

import { axesOf, byValue } from "./axes.js";
import { Board } from "./board.js";
import { count, h, plural, put, seconds, short, status, word } from "./dom.js";
import { Parallel } from "./parallel.js";

const STATES = ["complete", "pruned", "failed", "running"];

export class Search {
  constructor() {
    this.off = new Set();
    this.chosen = null;
    this.told = "";
    this.best = h("div", { class: "best" });
    this.states = h("div", { class: "chips", role: "group", "aria-label": "Which trials are shown" });
    this.colour = h("select", { onchange: () => this.show() });
    this.colours = h("label", { class: "colours" }, "Colour by ", this.colour);
    this.plot = new Parallel({ choose: (n) => this.choose(n), brushed: () => this.board.show(this.passing()), resized: () => this.show() });
    this.board = new Board({ choose: (n) => this.choose(n) });
    this.detail = h("p", { class: "pointed", "aria-live": "polite" });
    this.element = h(
      "div",
      { class: "search", hidden: true },
      h("section", { class: "card" }, h("div", { class: "bar" }, h("h2", {}, "Parameters and values"), this.colours, this.states), this.best, this.plot.element, this.detail),
      h("section", { class: "card leaders" }, this.board.element),
    );
  }

  update(state) {
    this.element.hidden = !state.search;
    if (!state.search || this.plot.busy) return;
    const told = JSON.stringify(state.search);
    if (told === this.told) return;
    this.told = told;
    const { columns, trials, ...rest } = state.search;
    this.search = { ...rest, trials: trials.map((row) => Object.fromEntries(columns.map((c, i) => [c, row[i]]))) };
    this.show();
  }

  show() {
    const { directions, counts, trials, axes } = this.search;
    put(this.states, STATES.filter((s) => counts[s]).map((s) => this.chip(s, counts[s])));
    this.names = directions.map((d, i) => (directions.length > 1 ? `value ${i + 1}` : "value"));
    this.colours.hidden = directions.length < 2;
    if (this.colour.options.length !== directions.length) this.colour.replaceChildren(...this.names.map((n, i) => h("option", { value: i }, n)));
    const by = Number(this.colour.value) || 0;
    this.shade = byValue(trials, by, directions[by]);
    put(this.best, bestOf(this.search, this.names));
    this.shown = trials.filter((t) => !this.off.has(t.state));
    this.plot.draw({ trials: this.shown, axes: axesOf(axes, trials, directions, this.names), shade: this.shade });
    this.board.update({ search: this.search, names: this.names, shade: this.shade, by });
    this.board.show(this.passing());
    this.choose(this.chosen);
  }

  passing() {
    return this.shown.filter((t) => this.plot.passes(t));
  }

  chip(state, n) {
    const toggle = () => {
      this.off.has(state) ? this.off.delete(state) : this.off.add(state);
      this.show();
    };
    return h("button", { type: "button", class: "chip", "aria-pressed": String(!this.off.has(state)), "data-key": `state-${state}`, onclick: toggle }, status(state), h("span", { class: "quiet" }, ` ${count(n)}`));
  }

  choose(number) {
    this.chosen = number;
    this.plot.choose(number);
    this.board.choose(number);
    const t = this.search.trials.find((one) => one.number === number);
    if (!t) return put(this.detail, h("span", { class: "quiet" }, "Point at a line or a row to see a trial; drag along an axis to choose a range of it."));
    const params = this.search.axes.map((a, i) => (t.params[i] ? `${a.name} ${word(t.params[i][0])}` : null));
    const facts = [
      ...t.values.map((v, i) => `${this.names[i] ?? "value"} ${word(v)}`),
      t.report && t.state !== "complete" ? `step ${short(t.report[0])}: ${word(t.report[1])}` : null,
      t.seconds ? seconds(t.seconds) : null,
      ...params,
      t.note,
    ];
    put(this.detail, h("strong", {}, `Trial ${number} `), status(t.state), h("span", {}, ` · ${facts.filter(Boolean).join(" · ")}`));
  }
}

function bestOf({ directions, trials, axes }, names) {
  const front = trials.filter((t) => t.rank === 0);
  if (!front.length) return [h("p", { class: "quiet" }, "No trial is complete yet.")];
  const [first] = front;
  if (directions.length > 1) {
    return [h("p", {}, h("strong", { class: "figure" }, count(front.length)), ` ${front.length === 1 ? "trial is" : "trials are"} best: no other is better in one value and no worse in the rest (to ${directions.join(", ")}).`)];
  }
  const chips = axes.map((a, i) => (first.params[i] ? h("span", { class: "param" }, h("span", { class: "quiet" }, `${a.name} `), word(first.params[i][0])) : null));
  return [
    h("p", {}, h("strong", { class: "figure" }, word(first.values[0])), h("span", { class: "quiet" }, ` the ${directions[0] === "maximize" ? "highest" : "lowest"} ${names[0]}, by trial ${first.number}${front.length > 1 ? ` and ${plural(front.length - 1, "other")}` : ""}`)),
    h("p", { class: "params" }, chips),
  ];
}
