// Axes of a search: where a trial's parameters and values lie on them, from 0 to 1. No drawing.

import { ticks } from "./charts.js";
import { isNumber, short, word } from "./dom.js";

const SHADES = 10;
const FAR = 4;
const CROWDED = 0.2;

/** The axes of all parameters that differ or are suggested, then one for each value. */
export function axesOf(params, trials, directions, names) {
  const made = params.map((p, i) => {
    const value = (t) => (t.params[i] ? t.params[i][0] : undefined);
    const known = trials.map(value).filter((v) => v !== undefined);
    const choices = p.choices ?? (known.every(isNumber) ? null : [...new Set(known)]);
    const axis = choices ? category(choices) : numeric(reach(p, known), p.log && p.low > 0);
    return { ...axis, name: p.name, key: `p-${p.name}`, value, at: (t) => (value(t) === undefined ? null : axis.place(value(t))), gaps: known.length < trials.length };
  });
  const values = directions.map((direction, i) => {
    const value = (t) => (t.state === "complete" ? t.values[i] : undefined);
    const known = trials.map(value).filter(isNumber);
    const axis = spread(known, direction);
    return { ...axis, name: names[i], note: `${direction === "maximize" ? "↑ higher" : "↓ lower"} is better${axis.log ? ", log" : ""}`, key: `v-${i}`, value, at: (t) => (isNumber(value(t)) ? axis.place(value(t)) : null), last: true, gaps: false };
  });
  return [...made, ...values];
}

/** Give each complete trial a shade by where it is on the axis of a value: 0 for the best, SHADES - 1 for the worst tenth. */
export function byValue(trials, objective, direction) {
  const value = (t) => (t.state === "complete" && isNumber(t.values[objective]) ? t.values[objective] : null);
  const known = trials.map(value).filter(isNumber);
  const axis = spread(known, direction);
  const far = (v) => (direction === "maximize" ? 1 - axis.place(v) : axis.place(v));
  const all = known.map(far).sort((a, b) => a - b);
  const [best, worst] = [all[0], all[Math.floor(0.9 * (all.length - 1))]];
  return (t) => {
    if (value(t) === null) return null;
    const share = worst === best ? 0 : (far(value(t)) - best) / (worst - best);
    return Math.max(0, Math.min(SHADES - 1, Math.floor(share * SHADES)));
  };
}

function reach(p, known) {
  const all = known.filter(isNumber);
  return [isNumber(p.low) ? p.low : Math.min(...all), isNumber(p.high) ? p.high : Math.max(...all)];
}

/** The axis of values: logarithmic where most are crowded at its lower end; else what is far out lies at its end. */
function spread(known, direction) {
  if (!known.length) return numeric([0, 1], false);
  const sorted = [...known].sort((a, b) => a - b);
  const [low, high] = [sorted[0], sorted.at(-1)];
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  if (low > 0 && high / low >= 3 && (at(0.5) - low) / (high - low) < CROWDED) return numeric([low, high], true);
  if (direction === "maximize") return high - low > FAR * (high - at(0.1)) && high > at(0.1) ? numeric([high - 2 * (high - at(0.1)), high], false, "low") : numeric([low, high], false);
  return high - low > FAR * (at(0.9) - low) && at(0.9) > low ? numeric([low, low + 2 * (at(0.9) - low)], false, "high") : numeric([low, high], false);
}

function numeric([low, high], log, cut = "") {
  const [f, g] = log ? [Math.log10, (v) => 10 ** v] : [(v) => v, (v) => v];
  const [a, b] = [f(low), f(high)];
  const place = (v) => (b > a ? Math.max(0, Math.min(1, (f(v) - a) / (b - a))) : 0.5);
  const inner = (most) => (log ? decades(a, b, most) : ticks(low, high, most));
  const label = (v) => (cut === "high" && v === high ? `≥ ${short(v)}` : cut === "low" && v === low ? `≤ ${short(v)}` : short(v));
  const marks = (most) => {
    const ends = b > a ? [low, high] : [low];
    const between = inner(most).filter((v) => place(v) > 0.7 / most && place(v) < 1 - 0.7 / most);
    return [...new Set([...ends, ...between])].map((v) => ({ t: place(v), label: label(v) }));
  };
  return { place, marks, log, text: (t) => short(g(a + Math.max(0, Math.min(1, t)) * (b - a))) };
}

function decades(a, b, most) {
  const step = Math.max(1, Math.ceil((b - a) / most));
  const found = [];
  if (b - a < 2) for (let power = Math.floor(a); power <= b; power += 1) found.push(2 * 10 ** power, 5 * 10 ** power);
  for (let power = Math.ceil(a); power <= b; power += step) found.push(10 ** power);
  return found;
}

function category(choices) {
  const place = (v) => (choices.findIndex((c) => c === v) + 0.5) / choices.length;
  const marks = (most) => {
    const every = Math.max(1, Math.ceil(choices.length / Math.max(most, 12)));
    return choices.filter((_, i) => i % every === 0).map((c) => ({ t: place(c), label: word(c) }));
  };
  return { place, marks, log: false, choices, text: (t) => word(choices[Math.max(0, Math.min(choices.length - 1, Math.floor(t * choices.length)))]) };
}
