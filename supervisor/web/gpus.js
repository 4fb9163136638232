// One card for each GPU: what is in use of its memory, by whom, and what was promised.

import { byId, el, named, place, setText, shown } from "./dom.js";
import { colour } from "./colours.js";
import { size } from "./words.js";

const STATES = {
  ok: "",
  dirty: "closed: memory did not come back",
  lost: "lost",
  mig: "partitioned (MIG)",
  unreadable: "cannot be read",
};
const cards = new Map();

export function showGpus(gpus, actions) {
  const kept = new Map();
  for (const gpu of gpus) {
    const card = cards.get(gpu.uuid) ?? new Card(actions);
    kept.set(gpu.uuid, card);
    card.show(gpu);
  }
  cards.clear();
  for (const [uuid, card] of kept) cards.set(uuid, card);
  const none = el("p", { class: "quiet" }, "No GPU is known.");
  place(byId("gpus"), kept.size ? [...kept.values()].map((card) => card.root) : [none]);
}

class Card {
  constructor(actions) {
    this.title = el("h3");
    this.state = el("p", { class: "warning" });
    this.facts = el("p", { class: "quiet" });
    this.bar = el("div", { class: "bar", role: "img" });
    this.legend = el("ul", { class: "legend" });
    this.load = el("meter", { min: "0", max: "100" });
    this.loadText = el("span");
    this.loadRow = el("p", { class: "load" }, "Load ", this.load, this.loadText);
    this.gpu = null;
    this.open = el(
      "button",
      { type: "button", on: { click: () => actions.open(this.gpu) } },
      "Say that it is clean",
    );
    this.root = el(
      "article",
      { class: "card" },
      this.title,
      this.state,
      this.bar,
      this.legend,
      this.loadRow,
      this.facts,
      this.open,
    );
  }

  show(gpu) {
    this.gpu = gpu;
    setText(this.title, `${gpu.index}: ${shown(gpu.name || gpu.uuid)}`);
    const problem = [STATES[gpu.state] ?? gpu.state, shown(gpu.problem)].filter(Boolean).join(". ");
    setText(this.state, problem);
    this.state.hidden = problem === "";
    this.open.hidden = gpu.state !== "dirty";
    this.showMemory(gpu);
    const load = gpu.utilization_percent;
    this.loadRow.hidden = load === null;
    this.load.value = load ?? 0;
    setText(this.loadText, ` ${load} %`);
    const more = [gpu.uuid];
    if (gpu.temperature_c !== null) more.push(`${gpu.temperature_c} °C`);
    if (gpu.power_w !== null) more.push(`${gpu.power_w} W`);
    setText(this.facts, shown(more.join(" · ")));
  }

  showMemory(gpu) {
    const parts = memoryParts(gpu);
    const key = JSON.stringify(parts);
    if (this.bar.dataset.key === key) return;
    this.bar.dataset.key = key;
    const total = gpu.total_mib ?? 0;
    this.bar.hidden = total === 0;
    this.bar.replaceChildren(
      ...parts.filter((part) => part.mib > 0).map((part) => {
        const piece = el("div", { class: `piece ${part.class}` });
        piece.style.width = `${Math.min(100, (100 * part.mib) / total)}%`;
        return piece;
      }),
    );
    const used = `${size(gpu.used_mib)} of ${size(gpu.total_mib)} in use`;
    const promised = gpu.granted_mib === null ? "" : `, ${size(gpu.granted_mib)} promised`;
    this.bar.setAttribute("aria-label", `Memory: ${used}${promised}`);
    const lines = parts.map((part) =>
      el("li", {}, el("span", { class: `swatch ${part.class}`, "aria-hidden": "true" }), named(part.name), ` ${part.told}`),
    );
    this.legend.replaceChildren(el("li", { class: "sum" }, el("strong", {}, used), promised), ...lines);
  }
}

/** Return the pieces of a memory bar: each target, what nobody explains, what is promised beyond use, the driver's. */
function memoryParts(gpu) {
  const parts = [];
  let promisedMib = 0;
  for (const one of gpu.targets) {
    const used = one.used_mib ?? 0;
    const reserved = one.reserved_mib === null ? "the whole GPU is reserved" : `${size(one.reserved_mib)} reserved`;
    const uses = one.used_mib === null ? "use unknown" : `${size(one.used_mib)} used`;
    parts.push({ name: one.target, mib: used, class: colour(one.target), told: `${uses}, ${reserved}` });
    promisedMib += Math.max(0, (one.reserved_mib ?? 0) - used);
  }
  const targets = gpu.targets.reduce((sum, one) => sum + (one.used_mib ?? 0), 0);
  const unexplained = gpu.unexplained_mib ?? 0;
  const other = Math.max(0, (gpu.used_mib ?? 0) - targets - unexplained);
  if (other > 0) parts.push({ name: "other processes", mib: other, class: "other", told: size(other) });
  if (unexplained > 0) parts.push({ name: "unexplained", mib: unexplained, class: "unexplained", told: size(unexplained) });
  if (promisedMib > 0) parts.push({ name: "promised, not in use", mib: promisedMib, class: "promised", told: size(promisedMib) });
  return parts;
}
