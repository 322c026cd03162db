// The ranks of a gang: what each does, how far and how fast it is, and where its time goes.

import { count, h, percent, rate, seconds, sentence, status } from "./dom.js";

const HEAD = ["Rank", "Now", "Step", "Rows/s", "Data wait", "Where its time goes"];

export function ranks(state) {
  const { ranks: all } = state;
  if (!all.length) return [];
  const seen = [...new Map(all.flatMap((r) => r.phases).map((p) => [p.phase, p.title])).entries()];
  return [
    h("div", { class: "bar" }, h("h2", {}, "Ranks"), h("p", { class: "quiet" }, summary(state))),
    h(
      "table",
      { class: "gang", role: "table" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, HEAD.map((c, i) => h("th", { scope: "col", role: "columnheader", class: i > 1 && i < 5 ? "number" : null }, c)))),
      h("tbody", { role: "rowgroup" }, all.map((r) => row(r))),
    ),
    h("ul", { class: "legend" }, seen.map(([phase, title]) => h("li", {}, h("span", { class: `swatch p-${phase}`, "aria-hidden": "true" }), sentence(title)))),
  ];
}

function summary({ ranks: all, metrics }) {
  const latest = metrics.find((m) => m.name === "loss")?.lines.map((l) => l.points.at(-1)?.[2]).filter((v) => typeof v === "number") ?? [];
  const loss = latest.length ? `loss ${(latest.reduce((a, b) => a + b) / latest.length).toPrecision(3)}` : null;
  const total = all.reduce((sum, r) => sum + r.rate, 0);
  return [epoch(all.reduce((least, r) => (r.epoch < least.epoch ? r : least))), loss, total ? `${rate(total)} rows/s in all` : null].filter(Boolean).join(" · ");
}

function epoch(r) {
  return r.epochs ? `epoch ${Math.min(r.epoch + 1, r.epochs)} of ${r.epochs}` : null;
}

function row(r) {
  const cell = (label, ...content) => h("td", { role: "cell", class: "number", "data-label": label }, content);
  return h(
    "tr",
    { role: "row" },
    h("td", { role: "cell", class: "who" }, h("strong", {}, r.rank), h("span", { class: "quiet" }, ` ${r.host}`)),
    h("td", { role: "cell", class: "now" }, r.status === "running" ? h("span", { class: "status running" }, h("span", { class: "sign", "aria-hidden": "true" }, "▶"), r.phase) : status(r.status)),
    cell("Step", count(r.step), epoch(r) ? h("span", { class: "quiet" }, ` ${epoch(r)}`) : null),
    cell("Rows/s", r.rate ? rate(r.rate) : "–"),
    cell("Data wait", percent(r.data_wait)),
    h("td", { role: "cell", class: "shares" }, strip(r)),
  );
}

function strip(r) {
  const shown = r.phases.filter((p) => p.share >= 0.0005);
  const words = shown.map((p) => `${p.title} ${percent(p.share)}`).join(", ");
  const bar = h("div", { class: "strip", role: "img", "aria-label": `Rank ${r.rank}: ${words}` });
  for (const p of shown) {
    const piece = h("span", { class: `piece p-${p.phase}`, title: `${sentence(p.title)}: ${percent(p.share)}, ${seconds(p.seconds)}` }, p.share > 0.14 ? percent(p.share) : "");
    piece.style.flexGrow = String(p.share);
    bar.append(piece);
  }
  return bar;
}
