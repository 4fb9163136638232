// Leases, the queue, targets and the audit.

import { byId, el, fillOnce, fillText, named, setText, shown, Table } from "./dom.js";
import { colour } from "./colours.js";
import { clock, day, forWhom, serverNow, size, span } from "./words.js";

const QUEUE_SHOWN = 100;
const OLDER = "Older decisions: gpu-supervisor audit";
const AUDIT_KEPT = 300;
const AUDIT_SHOWN = 40;

function name(cell, target) {
  fillOnce(cell, String(target), () => [
    el("span", { class: `swatch ${colour(target)}`, "aria-hidden": "true" }),
    named(target ?? "a bare lease"),
  ]);
}

/** Buttons about one thing. `acts`: [label, what a screen reader says, what it does with the thing] each. */
function buttons(cell, key, item, acts) {
  // The thing may have changed since the buttons were made: the newest is kept on the cell.
  cell.item = item;
  fillOnce(cell, key, () =>
    acts.map(([label, about, act]) =>
      el("button", { type: "button", "aria-label": shown(about), on: { click: () => act(cell.item) } }, label),
    ),
  );
}

const nothing = (cell) => fillOnce(cell, "none", () => []);

function left(cell, until, without) {
  fillText(cell, until === null ? without : `${span((Date.parse(until) - serverNow()) / 1000)}`);
}

export class Leases {
  constructor(actions) {
    this.table = new Table(
      byId("leases"),
      "Leases: who holds which GPU, and for how long",
      [
        { title: "Target", fill: (cell, one) => name(cell, one.target) },
        { title: "Owner", fill: (cell, one) => fillText(cell, one.owner) },
        { title: "State", fill: (cell, one) => fillText(cell, [one.state, note(one)].filter(Boolean).join(": ")) },
        { title: "GPUs", fill: (cell, one) => fillText(cell, one.gpus.map((uuid) => this.index.get(uuid) ?? uuid).join(", ")) },
        { title: "Memory", class: "number", fill: (cell, one) => fillText(cell, one.vram_mib === null ? "all" : size(one.vram_mib)) },
        { title: "Time left", class: "number", fill: (cell, one) => left(cell, one.ends_at ?? one.expires_at, "no limit") },
        {
          title: "Act",
          class: "acts",
          fill: (cell, one) =>
            buttons(cell, one.id, one, [["Release", `Release ${forWhom(one)} of ${one.owner}`, actions.release]]),
        },
      ],
      "Nobody holds a GPU.",
    );
    this.index = new Map();
  }

  show(leases, gpus, filtered) {
    this.index = new Map(gpus.map((gpu) => [gpu.uuid, String(gpu.index)]));
    this.table.show(leases, (one) => one.id, "", filtered ? "No lease matches." : "Nobody holds a GPU.");
  }
}

/** What a lease waits for, or what its end hangs on. */
function note(lease) {
  if (lease.why) return lease.why;
  if (lease.ends_at !== null) return "others wait, it ends by then";
  if (lease.pid) return `ends with process ${lease.pid}`;
  if (lease.adopted) return "adopted, ends with its containers";
  return lease.joined ? "shared with other leases" : "";
}

export class Queue {
  constructor(actions) {
    this.table = new Table(
      byId("queue"),
      "Queue: who waits, in order, and for what",
      [
        { title: "Target", fill: (cell, one) => name(cell, one.target) },
        { title: "Place", class: "number", fill: (cell, one) => fillText(cell, String(one.position + 1)) },
        { title: "Owner", fill: (cell, one) => fillText(cell, one.owner) },
        { title: "Priority", class: "number", fill: (cell, one) => fillText(cell, String(one.priority)) },
        { title: "Waits for", fill: (cell, one) => fillText(cell, span((serverNow() - Date.parse(one.queued_at)) / 1000)) },
        { title: "Why", class: "wide", fill: (cell, one) => fillText(cell, one.why) },
        {
          title: "Act",
          class: "acts",
          fill: (cell, one) => ticketActs(cell, one, actions),
        },
      ],
      "Nobody waits.",
    );
  }

  show(queue, filtered) {
    const more = queue.length > QUEUE_SHOWN ? `and ${queue.length - QUEUE_SHOWN} more behind them` : "";
    this.table.show(queue.slice(0, QUEUE_SHOWN), (one) => one.id, more, filtered ? "No ticket matches." : "Nobody waits.");
  }
}

export class Targets {
  constructor(actions) {
    this.table = new Table(
      byId("targets"),
      "Targets: their state, health and memory",
      [
        { title: "Target", fill: (cell, one) => name(cell, one.name) },
        { title: "State", fill: (cell, one) => state(cell, one.state) },
        { title: "Containers", class: "wide", fill: (cell, one) => fillText(cell, containers(one)) },
        { title: "Declares", class: "number", fill: (cell, one) => fillText(cell, one.vram_mib === null ? "whole GPU" : size(one.vram_mib)) },
        { title: "Seen", class: "number", fill: (cell, one) => fillText(cell, one.seen_mib === null ? "never" : size(one.seen_mib)) },
        { title: "Problems", class: "wide", fill: (cell, one) => problems(cell, one.problems) },
        { title: "Act", class: "acts", fill: (cell, one) => acts(cell, one, actions) },
      ],
      "No container is labelled gpu.target.",
    );
  }

  show(targets, filtered) {
    const empty = filtered ? "No target matches." : "No container is labelled gpu.target.";
    this.table.show(targets, (one) => one.name, "", empty);
  }
}

function state(cell, word) {
  fillOnce(cell, word, () => el("span", { class: `state ${word}` }, word));
}

function containers(target) {
  const told = target.containers.map((one) => {
    const health = one.health && one.health !== "none" && one.status === "running" ? `, ${one.health}` : "";
    return `${one.name} ${one.status}${health}`;
  });
  return told.join("; ") || (target.create ? `none; create them: ${target.create}` : "none");
}

function problems(cell, found) {
  fillOnce(cell, JSON.stringify(found), () =>
    found.map((one) => el("p", { class: one.severity === "error" ? "warning" : "" }, `${shown(one.message)}${one.hint ? ` (${shown(one.hint)})` : ""}`)),
  );
}

function ticketActs(cell, ticket, actions) {
  const about = `${forWhom(ticket)} of ${ticket.owner}`;
  const waits = ticket.state === "queued"; // one whose turn has come is served as it is
  buttons(cell, `${ticket.id} ${waits}`, ticket, [
    ...(waits ? [["Move", `Move ${about}`, actions.move]] : []),
    ["Cancel", `Cancel ${about}`, actions.cancel],
  ]);
}

function acts(cell, target, actions) {
  const resident = target.state === "resident";
  buttons(cell, `${target.name} ${resident}`, target, [
    ...(resident ? [["Evict", `Evict ${target.name}`, actions.evict]] : []),
    ["Logs", `What ${target.name} last wrote`, actions.logs],
    ["Why?", `Why was ${target.name} stopped?`, (one) => actions.why(one.name)],
  ]);
}

export class Audit {
  constructor() {
    this.events = [];
    this.table = new Table(
      byId("audit"),
      "Audit: every decision, the newest first",
      [
        { title: "Time", fill: (cell, one) => time(cell, one) },
        { title: "What", class: "wide", fill: (cell, one) => fillText(cell, one.sentence) },
      ],
      "Nothing has happened yet.",
    );
    this.all = false;
    this.rest = el("button", { type: "button", on: { click: () => this.showRest() } }, "Show more");
    byId("audit").append(this.rest);
    this.last = [() => true, false];
  }

  showRest() {
    this.all = true;
    this.show(...this.last);
    byId("audit-heading").focus();
  }

  /** Take events, oldest first; one that is known already is passed over. */
  take(events) {
    const newest = this.events[0]?.seq ?? 0;
    const fresh = events.filter((one) => one.seq > newest);
    this.events = [...fresh.reverse(), ...this.events].slice(0, AUDIT_KEPT);
  }

  show(matches, filtered) {
    const empty = filtered ? "No decision matches." : "Nothing has happened yet.";
    const found = this.events.filter((one) => matches(one.sentence));
    this.last = [matches, filtered];
    this.rest.hidden = this.all || found.length <= AUDIT_SHOWN;
    const listed = this.all ? found : found.slice(0, AUDIT_SHOWN);
    this.table.show(listed, (one) => one.seq, this.all && this.events.length === AUDIT_KEPT ? OLDER : "", empty);
  }
}

function time(cell, event) {
  fillOnce(cell, event.time, () => el("time", { datetime: event.time, title: day(event.time) }, clock(event.time)));
}
