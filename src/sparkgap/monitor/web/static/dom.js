// Elements and words. Everything that comes from users goes through here as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c))));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const three = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 4 });

export const isNumber = (v) => typeof v === "number" && Number.isFinite(v);
export const count = (v) => (!isNumber(v) ? "–" : Math.abs(v) < 1e7 ? whole.format(v) : compact.format(v));
export const rate = (v) => (!isNumber(v) ? "–" : v >= 1e6 ? compact.format(v) : v >= 10 ? whole.format(v) : three.format(v));
export const percent = (v) => (v > 0 && v < 0.01 ? "< 1 %" : `${Math.round(100 * v)} %`);
export const short = (v) => (!isNumber(v) ? "–" : Math.abs(v) >= 1e4 || (v !== 0 && Math.abs(v) < 1e-3) ? (Math.abs(v) < 1 ? v.toExponential(1) : compact.format(v)) : three.format(v));

export function seconds(v) {
  if (!isNumber(v)) return "–";
  if (v === 0) return "0 s";
  if (v < 0.001) return `${Math.round(v * 1e6)} µs`;
  if (v < 1) return `${short(Number((v * 1000).toPrecision(3)))} ms`;
  if (v < 60) return `${v.toFixed(1)} s`;
  const pad = (n) => String(n).padStart(2, "0");
  const all = Math.round(v);
  if (all < 3600) return `${Math.floor(all / 60)} min ${pad(all % 60)} s`;
  return `${Math.floor(all / 3600)} h ${pad(Math.floor((all % 3600) / 60))} min`;
}

export function bytes(v) {
  if (!isNumber(v)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (v >= 1000 && unit < units.length - 1) [v, unit] = [v / 1000, unit + 1];
  return `${unit && v < 100 ? v.toPrecision(2) : whole.format(v)} ${units[unit]}`;
}

export function clock(at, day = false) {
  if (!at) return "–";
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString("en-GB");
  const other = date.toDateString() !== new Date().toDateString();
  return day && other ? `${date.toLocaleDateString("en-CA")} ${time}` : time;
}

/** A value as it stands in a user's program: numbers short, texts as they are. */
export const word = (v) => (typeof v === "number" ? short(v) : v === null || v === undefined ? "None" : v === true ? "True" : v === false ? "False" : String(v));

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");

const SIGNS = { running: "▶", done: "✓", ok: "✓", complete: "✓", pruned: "◐", failed: "✕", stopped: "■", lost: "?", planned: "○", local: "○", unread: "…" };
const WORDS = { ok: "done", local: "in this process", unread: "being read" };

/** The state of a run or task: a sign, a word and a colour. */
export function status(name) {
  return h("span", { class: `status ${name}` }, h("span", { class: "sign", "aria-hidden": "true" }, SIGNS[name] ?? "·"), WORDS[name] ?? name);
}

/** Replace what is in an element, but keep what the user has opened and where the focus is. */
export function put(element, ...children) {
  const open = new Set([...element.querySelectorAll("details[open][data-key]")].map((d) => d.dataset.key));
  const focus = element.contains(document.activeElement) ? document.activeElement.closest("[data-key]")?.dataset.key : null;
  element.replaceChildren(...children.flat(3).filter(Boolean));
  for (const details of element.querySelectorAll("details[data-key]")) if (open.has(details.dataset.key)) details.open = true;
  if (focus) {
    const again = [...element.querySelectorAll("[data-key]")].find((e) => e.dataset.key === focus);
    (again?.tagName === "DETAILS" ? again.querySelector("summary") : again)?.focus({ preventScroll: true });
  }
}
