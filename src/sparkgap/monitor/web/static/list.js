// The list of runs, newest first.

import { clock, count, h, plural, put, rate, seconds, sentence, status } from "./dom.js";

const COLUMNS = ["State", "Run", "Started", "Duration", "Tasks", "Rows", "Rows/s", "Verdict"];

export class RunList {
  constructor(root) {
    this.body = h("tbody", { role: "rowgroup" });
    this.empty = h(
      "div",
      { class: "empty" },
      h("p", {}, "No run yet."),
      h("p", {}, "As soon as an action runs on a DataFrame of gap.transform, its tasks appear here by themselves."),
    );
    this.table = h(
      "table",
      { class: "runs", role: "table", hidden: true },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((c, i) => h("th", { scope: "col", role: "columnheader", class: i > 2 && i < 7 ? "number" : null }, c)))),
      this.body,
    );
    root.append(h("h1", {}, "Runs"), this.empty, this.table);
    this.told = "";
  }

  runs(runs) {
    const told = JSON.stringify(runs);
    if (told === this.told) return;
    this.told = told;
    this.empty.hidden = runs.length > 0;
    this.table.hidden = runs.length === 0;
    put(this.body, runs.map(row));
  }
}

function row(run) {
  const link = h("a", { href: `#/run/${encodeURIComponent(run.run)}`, "data-key": run.run }, run.name);
  const cell = (label, content, number = true) => h("td", { role: "cell", class: number ? "number" : null, "data-label": label }, content);
  const failures = run.failures ? h("span", { class: "bad" }, ` ${plural(run.failures, "failure")}`) : null;
  return h(
    "tr",
    { role: "row" },
    h("td", { role: "cell", class: "state" }, status(run.status)),
    h("td", { role: "cell", class: "name" }, link, run.kind ? h("span", { class: "quiet" }, ` ${run.kind}`) : null),
    cell("Started", clock(run.started, true), false),
    cell("Duration", run.elapsed ? seconds(run.elapsed) : "–"),
    cell("Tasks", [run.done === undefined || run.status === "planned" ? "–" : run.tasks ? `${count(run.done)} of ${count(run.tasks)}` : count(run.done), failures]),
    cell(sentence(run.unit), run.status === "planned" || !run.unit ? "–" : run.unit === "rows" ? count(run.rows_out) : `${count(run.rows_out)} ${run.unit}`),
    cell(`${sentence(run.unit)}/s`, rate(run.rate)),
    h("td", { role: "cell", class: "verdict" }, sentence(run.verdict) || h("span", { class: "quiet" }, "–")),
  );
}
