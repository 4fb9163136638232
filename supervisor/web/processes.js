// Who is on the GPUs and by what right, as far as the driver and the machine let the supervisor know.

import { byId, el, fillOnce, fillText, named, shown, Table } from "./dom.js";
import { colour } from "./colours.js";
import { size } from "./words.js";

const SHOWN = 100;
const COMMAND_SHOWN = 100;
const NAME_SHOWN = 40;
// Who uses a GPU without a right to it.
const WRONG = ["unapproved", "unleased"];
const ADVICE =
  "Unapproved: lease the GPU for it (gpu-supervisor acquire --bare -- COMMAND, or --bare --pid PID), " +
  "or allow it with the setting processes_allow.";

export class Processes {
  constructor() {
    this.table = new Table(
      byId("processes"),
      "Processes: who is on which GPU, and by what right",
      [
        { title: "Process", fill: (cell, one) => name(cell, one.process) },
        { title: "GPU", fill: (cell, one) => fillText(cell, one.gpu) },
        { title: "PID", class: "number", fill: (cell, one) => fillText(cell, String(one.process.pid)) },
        { title: "User", class: "whole", fill: (cell, one) => fillText(cell, cut(one.process.user ?? "unknown", NAME_SHOWN)) },
        { title: "Memory", class: "number", fill: (cell, one) => fillText(cell, size(one.use.used_mib)) },
        { title: "Standing", class: "wide whole", fill: (cell, one) => standing(cell, one.process) },
      ],
      "",
    );
    this.notes = el("div", { class: "quiet" });
    byId("processes").append(this.notes);
  }

  /** `view`: the last answer, null before the first; `problem`: why there is none now, or "". */
  show(view, problem, matches) {
    if (problem !== "") return this.fill([], `Who is on the GPUs cannot be shown: ${shown(problem)}`, []);
    if (view === null) return;
    const all = uses(view);
    const found = all.filter(({ process }) => matches(`${what(process)} ${process.user ?? ""} ${process.pid} ${right(process)}`));
    this.fill(found, all.length > 0 ? "No process matches." : none(view), notes(view));
  }

  fill(found, empty, said) {
    const more = found.length > SHOWN ? `and ${found.length - SHOWN} more: gpu-supervisor ps` : "";
    const key = ({ process, use }) => [process.pid, process.started_at, process.container, use.gpu, use.kind].join(" ");
    this.table.show(found.slice(0, SHOWN), key, more, empty);
    fillOnce(this.notes, JSON.stringify(said), () => said.map((sentence) => el("p", {}, shown(sentence))));
  }
}

/** Return {process, use, gpu} for each GPU that a process is on: by GPU, the largest first. */
function uses(view) {
  const index = new Map(view.gpus.map((gpu) => [gpu.uuid, gpu.index]));
  // One may still be on a GPU that is not read any more.
  const all = view.processes.flatMap((process) => process.gpus.map((use) => ({ process, use, gpu: String(index.get(use.gpu) ?? use.gpu) })));
  const at = ({ use }) => index.get(use.gpu) ?? index.size;
  return all.sort((a, b) => at(a) - at(b) || (b.use.used_mib ?? 0) - (a.use.used_mib ?? 0));
}

function what(process) {
  if (process.target !== null) return `${process.target} (${process.service ?? process.container})`;
  // A container in a container is in both.
  const inside = process.containers.map((one) => ` in ${cut(one, NAME_SHOWN)}`);
  return cut(process.command || process.name || "unknown", COMMAND_SHOWN) + inside.join("");
}

function cut(text, length) {
  const letters = [...text];
  return letters.length > length ? `${letters.slice(0, length).join("")}…` : text;
}

function right(process) {
  const done = process.killed ? ", killed" : process.asked_to_end_at ? ", asked to end" : "";
  const spared = process.why_spared ? `: ${process.why_spared}` : "";
  return process.standing.replaceAll("_", " ") + done + spared;
}

function name(cell, process) {
  fillOnce(cell, JSON.stringify([process.target, what(process)]), () => [
    el("span", { class: `swatch ${process.target === null ? "other" : colour(process.target)}`, "aria-hidden": "true" }),
    named(what(process)),
  ]);
}

function standing(cell, process) {
  fillOnce(cell, right(process), () => named(right(process), { class: WRONG.includes(process.standing) ? "warning" : "" }));
}

function none(view) {
  return hidden(view).length > 0 && hidden(view).length === view.gpus.length ? "Who is on the GPUs is not known." : "No process is known to use a GPU.";
}

/** Return the GPUs whose driver says of nobody that he is on them. */
const hidden = (view) => view.gpus.filter((gpu) => !gpu.listed);

function notes(view) {
  const count = view.finished.length;
  const silent = hidden(view).length < view.gpus.length ? hidden(view) : [];
  return [
    ...silent.map((gpu) => `GPU ${gpu.index}: who is on it is not known.`),
    ...view.limited.map((sentence) => `Limited: ${sentence}.`),
    ...(count > 0 ? [`${count === 1 ? "One process" : `${count} processes`} came and went unseen: gpu-supervisor ps --finished`] : []),
    ...(view.processes.some((one) => one.standing === "unapproved") ? [ADVICE] : []),
  ];
}
