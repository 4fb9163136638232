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
      ...parts.filter((part) => part.mib > 0 && !part.sum).map((part) => {
        const piece = el("div", { class: `piece ${part.class}` });
        piece.style.width = `${Math.min(100, (100 * part.mib) / total)}%`;
        return piece;
      }),
    );
    const used = `${size(gpu.used_mib)} of ${size(gpu.total_mib)} in use`;
    const promised = gpu.granted_mib === null ? "" : `, ${size(gpu.granted_mib)} promised`;
    this.bar.setAttribute("aria-label", `Memory: ${used}${promised}`);
    const lines = parts.filter((part) => part.name).map((part) =>
      el("li", {}, el("span", { class: `swatch ${part.class}`, "aria-hidden": "true" }), named(part.name), ` ${part.told}`),
    );
    this.legend.replaceChildren(el("li", { class: "sum" }, el("strong", {}, used), promised), ...lines);
  }
}

/** Return the pieces of a memory bar: what each target, and the bare leases, use and were promised beyond that; what others
 * use, what nobody explains, and the driver's own. Those with a name are in the legend, too.
 */
function memoryParts(gpu) {
  const found = shares(gpu);
  const parts = found.flatMap(({ name, used, reserved, cls, told }) => [
    { name, mib: used, class: cls, told },
    { mib: Math.max(0, reserved - used), class: `promised ${cls}` },
  ]);
  const promised = parts.filter((part) => !part.name).reduce((sum, part) => sum + part.mib, 0);
  const unexplained = gpu.unexplained_mib ?? 0;
  const other = others(gpu, found);
  if (other > 0) parts.push({ name: "other processes", mib: other, class: "other", told: size(other) });
  if (unexplained > 0) parts.push({ name: "unexplained", mib: unexplained, class: "unexplained", told: size(unexplained) });
  if (promised > 0) parts.push({ name: "promised, not in use", mib: promised, class: "promised", told: size(promised), sum: true });
  if (gpu.reserved_mib > 0) parts.push({ name: "the driver's own", mib: gpu.reserved_mib, class: "driver", told: size(gpu.reserved_mib) });
  return parts;
}

/** Return who has what of a GPU. What was promised, and to no target, is the bare leases'. */
function shares(gpu) {
  const found = gpu.targets.map((one) => {
    const uses = one.used_mib === null ? "use unknown" : `${size(one.used_mib)} used`;
    const reserves = one.reserved_mib === null ? "the whole GPU is reserved" : `${size(one.reserved_mib)} reserved`;
    return {
      name: one.target,
      used: one.used_mib ?? 0,
      reserved: one.reserved_mib ?? gpu.total_mib ?? 0,
      cls: colour(one.target),
      told: `${uses}, ${reserves}`,
    };
  });
  const bare = (gpu.granted_mib ?? 0) - found.reduce((sum, one) => sum + one.reserved, 0);
  if (bare > 0) {
    const used = Math.min(others(gpu, found), bare);
    found.push({ name: "bare leases", used, reserved: bare, cls: colour(null), told: `${size(used)} used, ${size(bare)} reserved` });
  }
  return found;
}

/** Return what is in use by processes that are known and are none of those found. */
function others(gpu, found) {
  const known = found.reduce((sum, one) => sum + one.used, gpu.unexplained_mib ?? 0);
  return Math.max(0, (gpu.used_mib ?? 0) - known);
}
