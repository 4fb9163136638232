// The last hour or day of each GPU: who held it as a band, how much was in use as a curve, and both as a table.

import { byId, el, named, place, rowOf, setText, shown, svg, tableOf } from "./dom.js";
import { colour } from "./colours.js";
import { clock, day, forWhom, shortClock, size, span } from "./words.js";

const HEIGHT = 100;
const TICKS = { hour: 4, day: 4 };
const ROWS = ["Who", "From", "To", "For", "Ended"];
const figures = new Map();

export function showPast(history, matches) {
  const begin = Date.parse(history.began_at);
  const end = Date.parse(history.ended_at);
  const frame = { begin, end, kind: history.span, x: (ms) => (100 * (Math.min(end, Math.max(begin, ms)) - begin)) / (end - begin) };
  const kept = history.gpus.map((gpu) => {
    const figure = figures.get(gpu.uuid) ?? new Figure();
    figures.set(gpu.uuid, figure);
    const holds = history.holds.filter((hold) => (hold.gpus.length === 0 || hold.gpus.includes(gpu.uuid)) && matches(`${hold.target} ${hold.owner} ${hold.id}`));
    figure.show(gpu, holds, history, frame);
    return figure.root;
  });
  place(byId("past"), kept);
  setText(byId("past-note"), note(history, begin));
}

/** Say what is not known: memory is only remembered since the start, holds as far as the audit goes back. */
function note(history, begin) {
  const said = [];
  if (history.known_since !== null && Date.parse(history.known_since) > begin) said.push(`Who held is known since ${day(history.known_since)}.`);
  if (history.sampled_since === null) said.push("Memory has not been read yet.");
  else if (Date.parse(history.sampled_since) > begin) said.push(`Memory is remembered since the last start, at ${clock(history.sampled_since)}.`);
  return said.join(" ");
}

class Figure {
  constructor() {
    this.title = el("h3");
    this.band = el("div", { class: "band", "aria-hidden": "true" });
    this.curve = svg("svg", { class: "curve", viewBox: `0 0 100 ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.peak = el("span", { class: "peak" });
    this.axis = el("div", { class: "axis", "aria-hidden": "true" });
    this.rows = el("tbody");
    this.caption = el("span", { class: "hidden" });
    const table = tableOf(el("caption", {}, this.caption), ROWS.map((title) => [title]), this.rows);
    this.list = el("details", { on: { toggle: () => this.showRows() } }, el("summary", {}, "As a table"), table);
    this.key = "";
    this.none = el("p", { class: "quiet" }, "Nobody held it.");
    this.root = el("article", { class: "card past" }, this.title, this.band, el("div", { class: "plot" }, this.curve, this.peak), this.axis, this.none, this.list);
  }

  show(gpu, holds, history, frame) {
    setText(this.title, `${gpu.index}: ${shown(gpu.name || gpu.uuid)}`);
    this.showBand(holds, frame);
    this.showCurve(gpu, history, frame);
    this.showAxis(frame);
    this.none.hidden = holds.length > 0;
    this.list.hidden = holds.length === 0;
    this.listed = { gpu, holds, frame };
    this.showRows();
  }

  /** Draw each hold into the first lane that is free by then: several may share a GPU. */
  showBand(holds, frame) {
    const lanes = [];
    const bars = holds.map((hold) => {
      const from = Date.parse(hold.began_at);
      const to = hold.ended_at === null ? frame.end : Date.parse(hold.ended_at);
      let lane = lanes.findIndex((free) => free <= from);
      if (lane < 0) lane = lanes.push(0) - 1;
      lanes[lane] = to;
      const bar = el("div", { class: `hold ${hold.kind} ${colour(hold.target)}`, title: `${shown(whose(hold))}, ${clock(hold.began_at)} to ${hold.ended_at ? clock(hold.ended_at) : "now"}` }, named(whose(hold)));
      bar.style.left = `${frame.x(from)}%`;
      bar.style.width = `${Math.max(0.2, frame.x(to) - frame.x(from))}%`;
      bar.style.top = `calc(${lane} * var(--lane))`;
      return bar;
    });
    this.band.style.height = `calc(${Math.max(1, lanes.length)} * var(--lane))`;
    this.band.replaceChildren(...bars);
  }

  showCurve(gpu, history, frame) {
    const most = Math.max(...gpu.used_mib.map((mib) => mib ?? 0), 1);
    const scale = gpu.total_mib ?? most;
    const first = Date.parse(history.first_at);
    const shapes = stretches(gpu.used_mib).map((stretch) => {
      const points = stretch.flatMap(([i, mib]) => {
        const y = HEIGHT - (HEIGHT * mib) / scale;
        const at = (n) => frame.x(first + n * history.step_seconds * 1000).toFixed(3);
        return [`${at(i)},${y.toFixed(2)}`, `${at(i + 1)},${y.toFixed(2)}`];
      });
      const [left, right] = [points[0].split(",")[0], points.at(-1).split(",")[0]];
      return svg("polygon", { points: `${left},${HEIGHT} ${points.join(" ")} ${right},${HEIGHT}` });
    });
    this.curve.replaceChildren(...shapes);
    const known = gpu.used_mib.filter((mib) => mib !== null);
    const now = known.at(-1);
    const told = known.length === 0 ? "Memory: nothing is remembered" : `Memory in use: ${size(now)} now, ${size(Math.max(...known))} at most, of ${size(gpu.total_mib)}`;
    this.curve.setAttribute("aria-label", told);
    setText(this.peak, told);
  }

  showAxis(frame) {
    const count = TICKS[frame.kind];
    const key = `${shortClock(frame.begin)} ${shortClock(frame.end)} ${frame.kind}`;
    if (this.axis.dataset.key === key) return;
    this.axis.dataset.key = key;
    const ticks = Array.from({ length: count + 1 }, (_, i) => shortClock(frame.begin + ((frame.end - frame.begin) * i) / count));
    this.axis.replaceChildren(...ticks.map((tick) => el("span", {}, tick)));
  }

  /** Fill the table while it is open, anew only when another hold began or ended: a reader keeps the place. */
  showRows() {
    const { gpu, holds, frame } = this.listed;
    const key = this.list.open ? JSON.stringify([frame.kind, holds]) : "";
    if (this.key === key) return;
    this.key = key;
    setText(this.caption, `Who held GPU ${gpu.index} in the last ${frame.kind}, the newest first`);
    this.rows.replaceChildren(
      ...(this.list.open ? holds : []).toReversed().map((hold) => {
        const to = hold.ended_at === null ? frame.end : Date.parse(hold.ended_at);
        const cells = [
          named(whose(hold)),
          day(hold.began_at),
          hold.ended_at === null ? "now" : day(hold.ended_at),
          span((to - Date.parse(hold.began_at)) / 1000),
          hold.reason === "" ? "holds" : shown(hold.reason.replaceAll("_", " ")),
        ];
        return rowOf(cells.map((cell, i) => [ROWS[i], null, cell]));
      }),
    );
  }
}

function whose(hold) {
  return hold.kind === "resident" ? `${hold.target} (resident)` : `${forWhom(hold)} of ${hold.owner}`;
}

/** Return the runs of values that are known, each as [index, value] pairs. */
function stretches(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i === 0 || values[i - 1] === null) found.push([]);
    found.at(-1).push([i, value]);
  });
  return found;
}
