// The parts of a run that are words, numbers and tables.

import { bars } from "./charts.js";
import { bytes, clock, count, h, percent, plural, rate, seconds, sentence } from "./dom.js";

const PHASES = { load: "Loading the model", starved: "Waiting for input", model: "In the model", encode: "Making columns", write: "Handing rows to Spark" };
const ITEM_PHASES = { ...PHASES, read: "Waiting for the next one", model: "Working" };

export function numbers(state) {
  if (state.status === "local") return [];
  const share = state.tasks ? state.done / state.tasks : 0;
  const tile = (label, value, more, extra) => h("div", { class: "tile" }, h("dt", {}, label), h("dd", {}, h("strong", {}, value), more ? h("span", { class: "quiet" }, ` ${more}`) : null, extra));
  const bad = state.attempts.status;
  const trouble = (bad.failed ?? 0) + (bad.lost ?? 0);
  const bar = state.tasks ? h("progress", { max: state.tasks, value: state.done, "aria-label": `${percent(share)} of the tasks are done` }) : null;
  const skipped = state.totals.skipped + state.totals.nulled;
  return [
    h("h2", { class: "hidden" }, "Progress"),
    h(
      "dl",
      { class: "tiles" },
      tile("Tasks", state.tasks ? `${count(state.done)} of ${count(state.tasks)}` : count(state.done), state.running ? `${count(state.running)} running` : "done", bar),
      state.search ? trials(state, tile) : tile(sentence(state.unit), count(state.rows_out), skipped ? `${count(skipped)} bad` : state.items ? "done" : "out"),
      tile(`${sentence(state.unit)}/s`, rate(state.rate), state.ranks.length && state.status === "running" ? "of all ranks, now" : state.status === "running" && state.recent !== null && state.recent !== undefined ? `now ${rate(state.recent)}` : "on average"),
      tile("Elapsed", state.elapsed ? seconds(state.elapsed) : "–"),
      tile("Attempts failed or lost", count(trouble), trouble ? "not counted above" : "", null),
    ),
  ];
}

/** Trials that have ended, of a search. */
function trials(state, tile) {
  const { running = 0 } = state.search.counts;
  return tile("Trials", count(state.search.total - running), running ? `${count(running)} running` : "ended");
}

export function limits(state) {
  if (state.status === "local") return [];
  const { found, phases } = state;
  const words = { ...(state.items ? ITEM_PHASES : PHASES), ...Object.fromEntries(phases.filter((p) => p.title).map((p) => [p.phase, sentence(p.title)])) };
  const whose = state.ranks.length ? "ranks'" : "tasks'";
  const slow = phases.find((p) => p.slow);
  const shown = phases.filter((p) => p.share >= 0.0005);
  const strip = h("div", { class: "strip", role: "img", "aria-label": shown.map((p) => `${words[p.phase]} ${percent(p.share)}`).join(", ") });
  for (const p of shown) {
    const piece = h("span", { class: `piece p-${p.phase}`, title: `${words[p.phase]}: ${percent(p.share)}, ${seconds(p.seconds)} (${p.words})` }, p.share > 0.09 ? percent(p.share) : "");
    piece.style.flexGrow = String(p.share);
    strip.append(piece);
  }
  return [
    h("h2", {}, "What limits it"),
    h("p", { class: "found" }, sentence(found.text)),
    found.fix ? h("p", { class: "fix" }, h("strong", {}, "Fix: "), found.fix) : null,
    ...(slow
      ? [
          h("h3", {}, `Where the ${whose} time goes`, h("span", { class: "quiet" }, ` – ${state.items ? "mostly" : "slowest"}: ${words[slow.phase].toLowerCase()}, ${percent(slow.share)}`)),
          strip,
          h("ul", { class: "legend" }, shown.map((p) => h("li", { class: p.slow ? "slow" : null }, h("span", { class: `swatch p-${p.phase}`, "aria-hidden": "true" }), `${words[p.phase]} `, h("span", { class: "quiet" }, `${percent(p.share)}${split(p)}`)))),
          state.unmeasured > 0.05 ? h("p", { class: "readout" }, `${percent(state.unmeasured)} of the tasks' time went into starting them and into what is not measured.`) : null,
        ]
      : [h("p", { class: "quiet" }, "No task that counts has told where its time goes.")]),
  ].filter(Boolean);
}

function split(p) {
  const { read = 0, decode = 0 } = p.parts;
  return p.share > 0.05 && read + decode > 0 ? ` (the reader was ${percent(read / (read + decode))} reading, ${percent(decode / (read + decode))} decoding)` : "";
}

export function firstFailure(state) {
  const first = state.failed[0];
  if (!first) return [h("h2", {}, "Failures"), silence(state)];
  const jump = () => {
    const details = document.querySelector(".failures details");
    if (!details) return;
    details.open = true;
    details.scrollIntoView({ block: "start" });
    details.querySelector("summary").focus({ preventScroll: true });
  };
  return [
    h("h2", {}, "First failure", state.failures > 1 ? h("span", { class: "quiet" }, ` of ${count(state.failures)}`) : null),
    h("p", { class: "error" }, h("span", { "aria-hidden": "true" }, "✕ "), first.error),
    h("p", { class: "message" }, first.message || "(no message)"),
    h("p", { class: "quiet" }, where(first)),
    h("button", { type: "button", onclick: jump, "data-key": "jump" }, "Show the traceback"),
  ];
}

function silence(state) {
  const { failed = 0, lost = 0 } = state.attempts.status;
  const trials = state.search?.counts.failed ?? 0;
  if (!failed && !lost && trials) return h("p", {}, `${plural(trials, "trial")} failed. The leaderboard tells why: sort it by state.`);
  if (!failed && !lost && state.status !== "failed") return h("p", { class: "fine" }, "None.");
  return h("p", {}, `${plural(failed + lost, "attempt")} failed or lost, and none has told why. A process that is killed, e.g. for its memory, cannot: see Spark's own log.`);
}

function where(f) {
  const place = f.partition === null ? "on the driver" : `task ${f.partition}${f.host ? ` on ${f.host}` : ""}`;
  return `${place}, ${clock(f.time)}${f.healed ? " – tried again, and done" : ""}`;
}

export function failures(state) {
  if (!state.failed.length) return [];
  const hidden = state.failures - state.failed.length;
  return [
    h("h2", {}, plural(state.failures, "failure")),
    state.failed.map((f, i) =>
      h(
        "details",
        { "data-key": `failure-${i}` },
        h("summary", {}, h("span", { class: "error" }, f.error), h("span", { class: "message" }, ` ${f.message.split("\n")[0]}`), h("span", { class: "quiet" }, ` ${where(f)}`)),
        h("pre", { tabindex: "0" }, f.traceback || "No traceback was told."),
      ),
    ),
    hidden > 0 ? h("p", { class: "quiet" }, `${count(hidden)} more are not shown.`) : null,
  ];
}

export function stages(state) {
  if (state.stages.length < 2) return [];
  const head = ["Stage", "State", "Tasks", sentence(state.unit)];
  return [
    h("h2", {}, "Actions"),
    h("p", { class: "quiet" }, "The work ran more than once. Everything else here is about the latest."),
    table(head, state.stages.map((g) => [g.stage, g.status, g.tasks ? `${count(g.done)} of ${count(g.tasks)}` : count(g.done), count(g.rows_out)])),
  ];
}

export function badRows(state) {
  const { skipped, nulled } = state.totals;
  if (state.items) return [];
  const found = [h("h2", {}, "Bad rows")];
  if (!skipped && !nulled && !state.reasons.length) return [...found, h("p", { class: "fine" }, "None.")];
  found.push(h("p", {}, `${count(skipped)} skipped, ${count(nulled)} kept with nulls.`));
  if (state.reasons.length) found.push(table(["Reason", "Rows"], state.reasons.map((r) => [r.reason, count(r.count)])));
  if (state.examples.length) found.push(h("details", { "data-key": "examples" }, h("summary", {}, "Examples"), h("ul", { class: "examples" }, state.examples.map((e) => h("li", {}, e)))));
  return found;
}

export function latency(state, place) {
  const { bounds, counts } = state.latency;
  const all = counts.reduce((a, b) => a + b, 0);
  if (state.ranks.length) return [];
  const one = state.items ? state.unit.slice(0, -1) : "batch";
  const found = [h("h2", {}, state.items ? `Time of ${one === "item" ? "an" : "a"} ${one}` : "Time of a batch in the model")];
  if (!all) return [...found, h("p", { class: "quiet" }, `No ${one} yet.`)];
  const low = counts.findIndex((n) => n > 0);
  const high = counts.findLastIndex((n) => n > 0);
  const [from, to] = [Math.max(0, low - 1), Math.min(counts.length - 1, high + 1)];
  const name = (i) => (i >= bounds.length ? `over ${seconds(bounds.at(-1))}` : `${i ? seconds(bounds[i - 1]) : "0"} to ${seconds(bounds[i])}`);
  const labels = counts.map((_, i) => name(i)).slice(from, to + 1);
  const width = Math.max(160, (place.clientWidth || 320) - 34);
  const summary = `median ${near(counts, bounds, 0.5)}, 99 % ${near(counts, bounds, 0.99)}, of ${state.items ? plural(all, one) : `${plural(all, "batch", "batches")} of up to ${plural(state.totals.batch_rows, "row")}`}`;
  const first = from ? seconds(bounds[from - 1]) : "0 s";
  const last = to < bounds.length ? seconds(bounds[to]) : "longer";
  return [...found, bars({ counts: counts.slice(from, to + 1), labels, width, name: `Histogram of ${one} times: ${summary}`, first, last }), h("p", { class: "readout" }, summary)];
}

/** The bucket in which a share of the batches is reached, in words. */
function near(counts, bounds, share) {
  const all = counts.reduce((a, b) => a + b, 0);
  let sum = 0;
  const i = counts.findIndex((n) => (sum += n) >= share * all);
  return i < bounds.length ? `≤ ${seconds(bounds[i])}` : `> ${seconds(bounds.at(-1))}`;
}

export function dropped(state) {
  const lines = [
    ...Object.entries(state.dropped).map(([k, n]) => [`${k} events that tasks had to drop`, count(n)]),
    ...Object.entries(state.forgotten).map(([k, n]) => [`${k} too many to keep`, count(n)]),
  ];
  return [h("h2", {}, "Dropped events"), lines.length ? table(["What", "How many"], lines) : h("p", { class: "fine" }, "None: everything that tasks said is here.")];
}

export function facts(state) {
  const more = { run: state.run, started: clock(state.started, true), "bytes in": bytes(state.totals.bytes_in), "bytes out": bytes(state.totals.bytes_out) };
  return [h("h2", {}, "Facts of the plan"), h("dl", { class: "facts" }, Object.entries({ ...state.details, ...more }).map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]))];
}

export function table(head, rows) {
  const number = (v) => typeof v === "number" || /^[\d,. –]+( of [\d,.]+)?$/.test(String(v));
  const cls = head.map((_, i) => (rows.length && rows.every((r) => r[i] === null || number(r[i])) ? "number" : null));
  return h(
    "div",
    { class: "wide", tabindex: "0", role: "group", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head.map((c, i) => h("th", { scope: "col", class: cls[i] }, c)))),
      h("tbody", {}, rows.map((r) => h("tr", {}, r.map((v, i) => h("td", { class: cls[i] }, v === null || v === undefined ? "–" : String(v)))))),
    ),
  );
}
