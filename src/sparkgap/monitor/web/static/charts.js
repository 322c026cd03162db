// Line charts and histograms, drawn as SVG.

import { h, isNumber, s, seconds, short } from "./dom.js";

const HEIGHT = 130;
const MARGIN = { left: 46, right: 8, top: 8, bottom: 20 };

/** Round values between two others, for an axis. */
export function ticks(low, high, most = 4, least = 0) {
  if (!(high > low)) return [low];
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((v) => v >= Math.max(raw, least)) ?? least;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return found;
}

function bounds(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const v of values) [low, high] = [Math.min(low, v), Math.max(high, v)];
  return high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high)) ? [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2] : [low, high];
}

/** One chart of several lines of points [time, step or null, value or null]. */
export function lineChart({ name, lines, begin, width, format = short, note = "" }) {
  const steps = lines.every((l) => l.points.every((p) => p[1] !== null));
  const x = (p) => (steps ? p[1] : p[0] - begin);
  const good = lines.flatMap((l) => l.points).filter((p) => isNumber(p[2]));
  const last = lines.map((l) => l.points.at(-1)).filter((p) => p && isNumber(p[2]));
  const readout = h("p", { class: "readout" }, note || (last.length === 1 ? `latest ${format(last[0][2])}` : `${lines.length} ${isNumber(lines[0].rank) ? "ranks" : "attempts"}, latest ${range(last.map((p) => p[2]), format)}`));
  const rest = readout.textContent;
  if (!good.length) return h("figure", { class: "chart card" }, h("figcaption", {}, name), h("p", { class: "quiet" }, "No number in it (NaN or infinite)."));
  const [x0, x1] = bounds(good.map(x));
  const values = bounds(good.map((p) => p[2]));
  const y0 = values[0] >= 0 && values[0] < values[1] / 2 ? 0 : values[0];
  const y1 = values[1];
  const px = (v) => MARGIN.left + ((v - x0) / (x1 - x0)) * (width - MARGIN.left - MARGIN.right);
  const py = (v) => HEIGHT - MARGIN.bottom - ((v - y0) / (y1 - y0)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const cursor = s("circle", { r: 3.5, class: "cursor", visibility: "hidden" });
  const svg = s(
    "svg",
    { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${name}: ${rest}` },
    axes({ x0, x1, y0, y1, px, py, width, format, steps }),
    lines.map((l, i) => s("path", { d: path(l.points, x, px, py), class: `line c${lines.length > 8 ? 0 : i % 8} ${lines.length > 8 ? "many" : ""}` })),
    cursor,
  );
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [mx, my] = [event.clientX - box.left, event.clientY - box.top];
    let near = null;
    for (const l of lines) for (const p of l.points) {
      if (!isNumber(p[2])) continue;
      const away = Math.hypot(px(x(p)) - mx, (py(p[2]) - my) / 3);
      if (!near || away < near.away) near = { away, p, l };
    }
    cursor.setAttribute("cx", px(x(near.p)));
    cursor.setAttribute("cy", py(near.p[2]));
    cursor.setAttribute("visibility", "visible");
    const { rank, partition } = near.l;
    const who = isNumber(rank) ? `, rank ${rank}` : isNumber(partition) ? `, task ${partition}` : "";
    readout.textContent = `${format(near.p[2])} at ${steps ? `step ${short(x(near.p))}` : seconds(x(near.p))}${who}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    readout.textContent = rest;
  });
  return h("figure", { class: "chart card" }, h("figcaption", {}, name), svg, readout);
}

function range(values, format) {
  if (!values.length) return "–";
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? format(low) : `${format(low)} to ${format(high)}`;
}

function path(points, x, px, py) {
  let pen = "M";
  return points
    .map((p) => {
      if (!isNumber(p[2])) {
        pen = "M";
        return "";
      }
      const part = `${pen}${px(x(p)).toFixed(1)} ${py(p[2]).toFixed(1)}`;
      pen = "L";
      return part;
    })
    .join("");
}

function axes({ x0, x1, y0, y1, px, py, width, format, steps }) {
  const across = ticks(x0, x1, Math.max(2, Math.floor(width / 90)), steps && x1 - x0 >= 1 ? 1 : 0);
  return [
    ticks(y0, y1, 3).map((v) => [
      s("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: py(v), y2: py(v), class: "grid" }),
      s("text", { x: MARGIN.left - 5, y: py(v) + 3.5, class: "tick", "text-anchor": "end" }, format(v)),
    ]),
    across.map((v, i) => s("text", { x: px(v), y: HEIGHT - 5, class: "tick", "text-anchor": px(v) > width - 30 ? "end" : px(v) < 60 ? "start" : "middle" }, steps ? `${i ? "" : "step "}${short(v)}` : span(v))),
  ];
}

/** A time on an axis: round, so without useless digits. */
export const span = (v) => (v === 0 ? "0 s" : v < 60 ? `${short(v)} s` : v < 3600 ? `${short(v / 60)} min` : `${short(v / 3600)} h`);

/** A histogram: bars with words for each. */
export function bars({ counts, labels, width, height = 110, name, first = labels[0], last = labels.at(-1) }) {
  const most = Math.max(...counts, 1);
  const each = width / counts.length;
  return s(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name },
    counts.map((n, i) => {
      const tall = n ? Math.max(1.5, (n / most) * (height - 22)) : 0;
      return s("rect", { x: i * each + 0.5, y: height - 16 - tall, width: Math.max(0.5, each - 1), height: tall, class: "bar" }, s("title", {}, `${labels[i]}: ${n.toLocaleString("en-US")}`));
    }),
    s("line", { x1: 0, x2: width, y1: height - 15.5, y2: height - 15.5, class: "axis" }),
    s("text", { x: 0, y: height - 3, class: "tick" }, first),
    s("text", { x: width, y: height - 3, class: "tick", "text-anchor": "end" }, last),
  );
}
