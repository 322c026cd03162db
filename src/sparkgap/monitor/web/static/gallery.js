// What tasks have shown: the newest state of each name, and earlier ones on request.

import { bars } from "./charts.js";
import { bytes, clock, count, h, put, short } from "./dom.js";
import { table } from "./parts.js";

export class Gallery {
  constructor() {
    this.cards = new Map();
    this.place = h("div", { class: "shown" });
    this.note = h("p", { class: "quiet" });
    this.element = h("section", { class: "gallery", hidden: true }, h("h2", {}, "Shown by tasks"), this.place, this.note);
    this.told = "";
  }

  update(state) {
    const told = JSON.stringify(state.artifacts.map((a) => a.number));
    if (told === this.told) return;
    this.told = told;
    this.element.hidden = !state.artifacts.length;
    const names = new Map();
    for (const a of state.artifacts) (names.get(a.name) ?? names.set(a.name, []).get(a.name)).push(a);
    for (const [name, card] of this.cards) {
      if (names.has(name)) continue;
      card.element.remove();
      this.cards.delete(name);
    }
    for (const [name, states] of names) {
      if (!this.cards.has(name)) {
        this.cards.set(name, new Card(state.run, name));
        this.place.append(this.cards.get(name).element);
      }
      this.cards.get(name).update(states);
    }
    const missing = state.artifact_count - state.artifacts.length;
    this.note.textContent = missing > 0 ? `${count(missing)} earlier ones are not listed.` : "";
  }
}

class Card {
  constructor(run, name) {
    this.run = run;
    this.number = null;
    this.back = h("button", { type: "button", "aria-label": `Earlier state of ${name}`, onclick: () => this.go(1) }, "◂");
    this.forth = h("button", { type: "button", "aria-label": `Later state of ${name}`, onclick: () => this.go(-1) }, "▸");
    this.where = h("span", { class: "quiet" });
    this.states = h("span", { class: "states" }, this.back, this.where, this.forth);
    this.caption = h("p", { class: "quiet" });
    this.content = h("div", { class: "content" });
    this.element = h("article", { class: "card" }, h("div", { class: "bar" }, h("h3", {}, name), this.states), this.content, this.caption);
  }

  /** Take the states, newest first; who looks at an earlier one keeps looking at it. */
  update(states) {
    const at = states.findIndex((a) => a.number === this.number);
    this.index = this.index > 0 && at >= 0 ? at : 0;
    this.all = states;
    this.show();
  }

  go(step) {
    this.index = Math.max(0, Math.min(this.all.length - 1, this.index + step));
    this.show();
  }

  show() {
    const a = this.all[this.index];
    this.states.hidden = this.all.length < 2;
    this.where.textContent = ` ${this.all.length - this.index} of ${this.all.length} `;
    this.back.disabled = this.index === this.all.length - 1;
    this.forth.disabled = this.index === 0;
    const who = a.partition === null ? "driver" : `task ${a.partition}`;
    this.caption.textContent = [a.step === null ? null : `step ${a.step}`, who, clock(a.time), a.caption, bytes(a.bytes)].filter(Boolean).join(" · ");
    if (a.number === this.number) return;
    this.number = a.number;
    this.load(a, `/api/runs/${encodeURIComponent(this.run)}/artifacts/${a.number}`);
  }

  async load(a, url) {
    let made;
    try {
      if (a.kind === "image") {
        made = h("img", { src: url, alt: `${a.name}: ${a.caption}` });
        await made.decode();
      } else {
        const answer = await fetch(url);
        if (!answer.ok) throw new Error(answer.status === 404 ? "it is not kept any more" : `the driver answered ${answer.status}`);
        made = a.kind === "text" ? h("pre", { tabindex: "0" }, await answer.text()) : draw(a.kind, await answer.json(), this.content.clientWidth);
      }
    } catch (error) {
      made = h("p", { class: "quiet" }, `Cannot be shown: ${error.message}.`);
    }
    if (this.number === a.number) put(this.content, made); // a later one may have overtaken it
  }
}

function draw(kind, data, width) {
  if (kind === "table") return table(data.columns, data.rows);
  const facts = [data.dtype, `shape ${data.shape.join(" × ") || "()"}`];
  if (data.counts) facts.push(`${short(data.min)} to ${short(data.max)}`, `mean ${short(data.mean)}`, `sd ${short(data.std)}`, data.zeros ? `${count(data.zeros)} zeros` : null);
  if (data.missing) facts.push(`${count(data.missing)} NaN or infinite`);
  const found = h("div", {});
  if (data.counts) {
    const labels = data.counts.map((_, i) => `${short(data.edges[i])} to ${short(data.edges[i + 1])}`);
    found.append(bars({ counts: data.counts, labels, width: Math.max(160, width || 280), name: `Histogram of the values: ${facts.filter(Boolean).join(", ")}`, first: short(data.edges[0]), last: short(data.edges.at(-1)) }));
  }
  found.append(h("p", { class: "readout" }, facts.filter(Boolean).join(" · ")));
  if (kind === "tensor" && data.corner?.length) found.append(h("div", { class: "wide" }, h("table", { class: "corner" }, h("caption", {}, "First values"), h("tbody", {}, data.corner.map((r) => h("tr", {}, r.slice(0, 5).map((v) => h("td", { class: "number" }, typeof v === "number" ? short(v) : String(v)))))))));
  return found;
}
