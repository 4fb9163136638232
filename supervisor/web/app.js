// The page: what is fetched when, what is shown, and what a person may do. The server decides everything.

import { ask, key, part, Refused } from "./api.js";
import { giveColours } from "./colours.js";
import { confirmed } from "./confirm.js";
import { byId, el, place, setText, shown } from "./dom.js";
import { showGpus } from "./gpus.js";
import { showLogs } from "./logs.js";
import { chosenPriority, move } from "./move.js";
import { showPast } from "./past.js";
import { Processes } from "./processes.js";
import { Stream } from "./stream.js";
import { Audit, Leases, Queue, Targets } from "./tables.js";
import { tellWhy } from "./why.js";
import { forWhom } from "./words.js";

// Memory and load change without a decision; decisions come over the stream, and are shown at once.
const LOOK_MS = 2_000;
const SELDOM_MS = 10_000;
const AFTER_EVENT_MS = 60;
// A storm of decisions, or a queue of thousands, must not make the page a burden to the server.
const BETWEEN_MS = 400;
const LONG_QUEUE = 500;
const LONG_LOOK_MS = 10_000;
const NEWS_MS = 3_000;
const AUDIT_FIRST = 100;

const seen = { status: null, targets: null, history: null, processes: null, processesRefused: "", memory: "" };
let spanKind = "hour";
const notices = new Map();

// ---- acting

const actions = {
  release: (lease) =>
    act(
      `Release ${forWhom(lease)} of ${lease.owner}?`,
      "Its lease ends now. What runs stays until something needs the room.",
      "Release",
      "leases-heading",
      () => ask(`v1/leases/${part(lease.id)}?only=lease`, { method: "DELETE" }),
    ),
  cancel: (ticket) =>
    act(
      `Cancel the ticket of ${ticket.owner} for ${forWhom(ticket)}?`,
      "It loses its place in the queue.",
      "Cancel the ticket",
      "queue-heading",
      () => ask(`v1/leases/${part(ticket.id)}?only=ticket`, { method: "DELETE" }),
    ),
  move: async (ticket) => {
    const priority = await chosenPriority(ticket, byId("queue-heading"));
    if (priority !== null) await carryOut("Move", () => move(ticket, priority));
  },
  evict: (target) =>
    act(`Evict ${target.name}?`, "Its containers are stopped now.", "Evict", "targets-heading", () =>
      ask(`v1/targets/${part(target.name)}/evict`, { method: "POST" }),
    ),
  open: (gpu) =>
    act(
      `Is GPU ${gpu.index} clean?`,
      `${gpu.problem}. If you know that nothing uses it any more, it can be handed out again.`,
      "It is clean",
      "gpus-heading",
      () => ask(`v1/gpus/${part(gpu.uuid)}/open`, { method: "POST" }),
    ),
  logs: (target) => showLogs(target.name, byId("targets-heading")),
  why: (name) => {
    byId("why-name").value = name;
    byId("why-heading").focus();
    byId("why-heading").scrollIntoView();
    tellWhy(name);
  },
};

async function act(title, text, verb, home, request) {
  if (await confirmed(shown(title), shown(text), verb, byId(home))) await carryOut(verb, request);
}

async function carryOut(verb, request) {
  try {
    const done = await request();
    notice("act", done.reason ? `Nothing was done: ${shown(done.reason.replaceAll("_", " "))}` : "");
  } catch (error) {
    notice("act", `${verb}: ${explain(error)}`);
    if (error.status === 401) askForKey();
  }
  await look();
}

function explain(error) {
  if (error.status === 401) return "this server wants an API key; give one with the button Key";
  if (error.status === 403 && key.get()) return `${shown(error.message)} (this key may not do that)`;
  return shown(error.message);
}

// ---- what is wrong

/** Show a sentence until it is said again; "" takes it away. */
function notice(what, text) {
  if ((notices.get(what) ?? "") === text) return;
  if (text) notices.set(what, text);
  else notices.delete(what);
  const lines = [...notices].map(([name, said]) => {
    const close = el("button", { type: "button", "aria-label": "Close this message", on: { click: () => notice(name, "") } }, "×");
    return el("p", { class: "alert" }, el("span", {}, said), name === "act" ? close : null);
  });
  byId("alerts").replaceChildren(...lines);
}

function standing(status) {
  const said = [];
  if (!status.engine.synced) said.push(`Not in sync with the container engine: ${status.engine.reason}. Nothing new is granted.`);
  if (status.journal.state !== "ok") said.push(`Journal ${status.journal.state}: ${status.journal.detail}.`);
  if (status.mode !== "stop") said.push(`Enforcement mode: ${status.mode}.`);
  for (const one of status.problems) said.push(`${one.message}${one.hint ? ` (${one.hint})` : ""}`);
  return shown(said.join(" "));
}

// ---- looking

const filter = () => byId("filter").value.trim().toLowerCase();
const matches = (text) => filter() === "" || text.toLowerCase().includes(filter());

const leases = new Leases(actions);
const queue = new Queue(actions);
const targets = new Targets(actions);
const processes = new Processes();
const audit = new Audit();

/** Return `run` such that calls while one is under way become one more: no older answer comes behind a newer. */
function oneAtATime(run) {
  let running = null;
  let again = false;
  return () => {
    again = true;
    running ??= (async () => {
      try {
        while (again) {
          again = false;
          await run();
        }
      } finally {
        running = null;
      }
    })();
    return running;
  };
}

/** Fetch and show. */
const look = oneAtATime(async () => {
  try {
    [seen.status, seen.targets] = await Promise.all([ask("v1/status"), ask("v1/targets")]);
    notice("look", "");
    notice("standing", standing(seen.status));
    show();
    // There may be hundreds of them: not at every look, but whenever some memory came or went.
    const memory = JSON.stringify(seen.status.gpus.map((gpu) => [gpu.uuid, gpu.state, gpu.used_mib]));
    if (memory !== seen.memory) lookAtProcesses();
    seen.memory = memory;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    // While there is no line at all, the line says so.
    if (error.status !== 0) notice("look", explain(error));
  }
});

const lookBack = oneAtATime(async () => {
  try {
    const found = await ask(`v1/history?span=${spanKind}`);
    if (found.span === spanKind) seen.history = found;
    showHistory();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
});

const lookAtProcesses = oneAtATime(async () => {
  try {
    seen.processes = await ask("v1/processes");
    seen.processesRefused = "";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status !== 0) seen.processesRefused = explain(error);
  }
  showProcesses();
});

/** The status comes first: it gives the targets their colours, the same as before a reload. */
async function lookAtAll() {
  seen.memory = "";
  await look();
  lookBack();
}

function show() {
  const { status } = seen;
  if (status === null) return;
  const filtered = filter() !== "";
  giveColours(seen.targets.targets.map((one) => one.name));
  setText(byId("where"), shown(`${status.host}, version ${status.version}`));
  document.title = `${status.leases.map(forWhom).join(", ") || "idle"} · GPU supervisor`;
  showGpus(status.gpus, actions);
  const fits = (one) => matches(`${one.target ?? ""} ${one.owner} ${one.id}`);
  leases.show(status.leases.filter(fits), status.gpus, filtered);
  queue.show(status.queue.filter(fits), filtered);
  targets.show(seen.targets.targets.filter((one) => matches(`${one.name} ${one.containers.map((c) => c.name).join(" ")}`)), filtered);
  showNames();
}

function showNames() {
  const names = seen.targets.targets.flatMap((one) => [one.name, ...one.containers.map((c) => c.name)]);
  const list = byId("why-names");
  const known = JSON.stringify(names);
  if (list.dataset.key === known) return;
  list.dataset.key = known;
  list.replaceChildren(...names.map((name) => el("option", { value: name })));
}

function showHistory() {
  if (seen.history !== null) showPast(seen.history, matches);
}

function showProcesses() {
  processes.show(seen.processes, seen.processesRefused, matches);
}

function showAudit() {
  audit.show(matches, filter() !== "");
}

// ---- news for whoever does not see the page change

let news = [];
let newsTimer = 0;

/** Read out what was decided, at most every few seconds, and never a flood of it. */
function tell(sentence) {
  news.push(sentence);
  if (newsTimer) return;
  newsTimer = setTimeout(() => {
    const [last, count] = [news.at(-1), news.length];
    setText(byId("news"), shown(count > 2 ? `${count} decisions; the last: ${last}` : news.join(". ")));
    news = [];
    newsTimer = 0;
  }, NEWS_MS);
}

// ---- the line

function line(state, text) {
  byId("live").dataset.state = state;
  setText(byId("live-text"), text);
}

let soon = 0;
let lookedAt = 0;

/** Look a moment after a decision: what comes together is fetched once. */
function lookSoon() {
  if (soon) return;
  soon = setTimeout(() => {
    soon = 0;
    lookedAt = Date.now();
    lookAtAll();
    showAudit();
  }, Math.max(AFTER_EVENT_MS, lookedAt + between() - Date.now()));
}

function between() {
  return (seen.status?.queue.length ?? 0) > LONG_QUEUE ? LONG_LOOK_MS : BETWEEN_MS;
}

function lookNow() {
  if (between() === BETWEEN_MS) look();
  else lookSoon();
}

const stream = new Stream(
  "v1/events",
  {
    live: () => (line("live", "live"), notice("line", ""), lookSoon()),
    lost: (seconds) => line("lost", `not connected, trying again ${seconds < 1.5 ? "now" : `in ${Math.round(seconds)} s`}`),
    refused: (error) => {
      notice("line", explain(error));
      if (error.status === 401 && !key.get()) askForKey();
    },
    event: (event) => {
      audit.take([event]);
      tell(event.sentence);
      lookSoon();
    },
  },
  null,
);

async function begin() {
  // The list first: the stream goes on behind its end, so that nothing is missed and nothing comes twice.
  for (;;) {
    try {
      const first = await ask(`v1/events?limit=${AUDIT_FIRST}`);
      audit.take(first.events);
      stream.last = String(first.after);
      break;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      line("lost", error.status === 0 ? "not connected, trying again" : "waiting for a key");
      if (error.status !== 0) notice("line", explain(error));
      if (error.status === 401 && !key.get()) askForKey();
      await new Promise((done) => ((retry = done), setTimeout(done, LOOK_MS)));
    }
  }
  notice("line", "");
  showAudit();
  stream.follow();
}
let retry = () => {};

function every(ms, run) {
  setInterval(() => document.visibilityState === "visible" && run(), ms);
}

// ---- the key

function askForKey() {
  const dialog = byId("key-dialog");
  if (document.querySelector("dialog[open]") !== null) return;
  byId("key-value").value = "";
  dialog.showModal();
}

function useKey(value) {
  key.set(value.trim());
  byId("key-value").value = "";
  byId("key-dialog").close();
  showKey();
  retry();
  stream.hurry(true);
  lookAtAll();
}

function showKey() {
  setText(byId("key"), key.get() ? "Key: in use" : "Key");
}

byId("key").addEventListener("click", askForKey);
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-forget").addEventListener("click", () => useKey(""));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key-value").value);
});

// ---- the rest of the page

byId("why-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = byId("why-name").value.trim();
  if (name) tellWhy(name);
});
byId("filter").addEventListener("input", () => {
  show();
  showAudit();
  showProcesses();
  showHistory();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement || document.querySelector("dialog[open]") !== null;
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  byId("filter").focus();
});
for (const kind of ["hour", "day"]) {
  byId(`past-${kind}`).addEventListener("click", () => {
    spanKind = kind;
    for (const one of ["hour", "day"]) byId(`past-${one}`).setAttribute("aria-pressed", String(one === kind));
    lookBack();
  });
}

showKey();
every(LOOK_MS, lookNow);
every(1_000, show);
every(SELDOM_MS, lookSoon);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && lookSoon());
lookAtAll();
begin();
