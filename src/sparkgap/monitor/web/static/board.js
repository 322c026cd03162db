// The leaderboard of a search: best trials first, or sorted by any column.

import { count, h, isNumber, put, seconds, short, status, word } from "./dom.js";

const FIRST = 10;
const MORE = 50;

export class Board {
  constructor({ choose }) {
    this.tell = { choose };
    this.sort = { key: "best", down: false };
    this.most = FIRST;
    this.head = h("tr", { role: "row" });
    this.body = h("tbody", { role: "rowgroup", onpointerleave: () => choose(null) });
    this.order = h("select", { onchange: () => this.by(this.order.value, false) });
    this.note = h("p", { class: "quiet" });
    this.more = h("button", { type: "button", onclick: () => ((this.most += MORE), this.show(this.rows)) });
    this.fewer = h("button", { type: "button", onclick: () => ((this.most = FIRST), this.show(this.rows)) }, "Show fewer");
    this.element = h(
      "div",
      {},
      h("div", { class: "bar" }, h("h2", {}, "Leaderboard"), h("label", { class: "order" }, "Sort by ", this.order)),
      h("div", { class: "wide" }, h("table", { class: "board", role: "table" }, h("thead", { role: "rowgroup" }, this.head), this.body)),
      h("div", { class: "below" }, this.more, this.fewer, this.note),
    );
  }

  update({ search, names, shade, by }) {
    this.coloured = by;
    this.search = search;
    this.shade = shade;
    const reports = search.trials.some((t) => t.report);
    this.columns = [
      { key: "number", name: "Trial", of: (t) => t.number, cell: (t) => this.name(t), cls: "trial-name" },
      { key: "state", name: "State", of: (t) => t.state, cell: state, cls: "state" },
      ...names.map((name, i) => ({ key: `v${i}`, name, of: (t) => t.values[i], down: search.directions[i] === "maximize", cell: (t) => this.value(t, i), cls: "number value" })),
      ...(reports ? [{ key: "report", name: "Step", of: (t) => t.report?.[0], cell: (t) => (t.report ? short(t.report[0]) : "–"), cls: "number", gone: (t) => !t.report }] : []),
      { key: "seconds", name: "Time", of: (t) => t.seconds || undefined, cell: (t) => (t.seconds ? seconds(t.seconds) : "–"), cls: "number", gone: (t) => !t.seconds },
      ...search.axes.map((a, i) => ({ key: `p${i}`, name: a.name, of: (t) => t.params[i]?.[0], cell: (t) => (t.params[i] ? h("span", { title: word(t.params[i][0]) }, word(t.params[i][0])) : "–"), cls: `param ${search.trials.every((t) => !t.params[i] || isNumber(t.params[i][0])) ? "number" : ""}`, gone: (t) => !t.params[i] })),
    ];
    put(this.head, this.columns.map((c) => this.header(c)));
    const wanted = JSON.stringify(this.columns.map((c) => c.name));
    if (this.offered !== wanted) this.order.replaceChildren(h("option", { value: "best" }, "best first"), ...this.columns.map((c) => h("option", { value: c.key }, c.name)));
    this.offered = wanted;
    this.order.value = this.sort.key;
  }

  header(c) {
    const mine = this.sort.key === c.key;
    const arrow = mine ? (this.sort.down ? " ▾" : " ▴") : "";
    return h(
      "th",
      { scope: "col", role: "columnheader", class: c.cls, "aria-sort": mine ? (this.sort.down ? "descending" : "ascending") : null },
      h("button", { type: "button", class: "sort", "data-key": `sort-${c.key}`, title: `Sort by ${c.name}`, onclick: () => this.by(c.key, true) }, c.name, arrow),
    );
  }

  /** Sort by a column; once more the other way round, and then best first again. */
  by(key, turn) {
    const first = Boolean(this.columns.find((c) => c.key === key)?.down);
    const mine = turn && this.sort.key === key;
    this.sort = mine && this.sort.down !== first ? { key: "best", down: false } : { key, down: mine ? !this.sort.down : first };
    this.order.value = this.sort.key;
    put(this.head, this.columns.map((c) => this.header(c)));
    this.show(this.rows);
  }

  show(trials) {
    this.rows = trials;
    const column = this.columns.find((c) => c.key === this.sort.key);
    const sorted = column ? [...trials].sort((a, b) => compare(column.of(a), column.of(b), this.sort.down)) : trials;
    const shown = sorted.slice(0, this.most);
    put(this.body, shown.map((t) => this.row(t)));
    this.choose(this.chosen);
    const rest = trials.length - shown.length;
    this.more.hidden = rest <= 0;
    this.more.textContent = `Show ${Math.min(MORE, rest)} more`;
    this.fewer.hidden = this.most === FIRST || trials.length <= FIRST;
    const { total, trials: all } = this.search;
    const kept = total > all.length ? ` Of ${count(total)} trials, the best and the latest are kept here: ${count(all.length)}.` : "";
    this.note.textContent = `${count(shown.length)} of ${count(trials.length)} ${trials.length < all.length ? "chosen trials" : "trials"}.${kept}`;
  }

  row(t) {
    const cells = this.columns.map((c) => h("td", { role: "cell", class: `${c.cls} ${c.gone?.(t) ? "gone" : ""}`, "data-label": c.name }, c.cell(t)));
    return h("tr", { role: "row", class: t.rank === 0 ? "top-rank" : null, "data-trial": t.number, onpointerenter: () => this.tell.choose(t.number) }, cells);
  }

  name(t) {
    const label = `Trial ${t.number}${t.rank === 0 ? ", best" : ""}`;
    return h("button", { type: "button", class: "plain", "data-key": `trial-${t.number}`, "aria-label": label, onfocus: () => this.tell.choose(t.number), onclick: () => this.tell.choose(t.number) }, `${t.number}`, t.rank === 0 ? h("span", { class: "star", title: "best" }, " ★") : null);
  }

  value(t, i) {
    if (t.values[i] === undefined) return t.report && t.state !== "complete" ? h("span", { class: "quiet", title: "latest report" }, `(${word(t.report[1])})`) : "–";
    const shade = this.shade(t);
    const shown = word(t.values[i]);
    return t.state === "complete" ? [i === this.coloured ? h("span", { class: `swatch w${shade ?? 9}`, "aria-hidden": "true" }) : null, shown] : h("span", { class: "quiet", title: "its last report" }, `(${shown})`);
  }

  choose(number) {
    this.chosen = number;
    for (const row of this.body.children) row.classList.toggle("chosen", row.dataset.trial === String(number));
  }
}

function state(t) {
  return [status(t.state), t.note ? h("span", { class: "why quiet", title: t.note }, t.note) : null];
}

/** Order of two cells: those without a value last, whichever way. */
function compare(a, b, down) {
  const [none, other] = [a === undefined || a === null, b === undefined || b === null];
  if (none || other) return Number(none) - Number(other);
  const order = typeof a === "number" && typeof b === "number" ? a - b : word(a).localeCompare(word(b), "en", { numeric: true });
  return down ? -order : order;
}
