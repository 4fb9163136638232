// The story of one target or container: what stopped it, for whom, what to type, and what happened to it before.

import { ask, part } from "./api.js";
import { byId, el, named, shown } from "./dom.js";
import { day } from "./words.js";

const STORY = 30;

export async function tellWhy(name) {
  const place = byId("why");
  place.setAttribute("aria-busy", "true");
  try {
    const why = await ask(`v1/why/${part(name)}`);
    const story = why.target === null ? [] : (await ask(`v1/events?target=${part(why.target)}&limit=${STORY}`)).events;
    place.replaceChildren(...told(why, story));
  } catch (error) {
    place.replaceChildren(el("p", { class: "warning" }, `${shown(name)}: ${shown(error.message)}`));
  } finally {
    place.setAttribute("aria-busy", "false");
  }
}

function told(why, events) {
  const who = [why.for_target && `for ${why.for_target}`, why.for_owner && `of ${why.for_owner}`].filter(Boolean).join(" ");
  const by = why.by === null ? null : el("p", {}, "Decided by ", named(why.by), who ? " " : "", who ? named(who) : "", why.stopped ? `, ${day(why.stopped.time)}` : "", ".");
  const lines = events.toReversed().map((one) =>
    el("li", {}, el("time", { datetime: one.time }, day(one.time)), " ", named(one.sentence)),
  );
  return [
    el("p", { class: "answer" }, named(why.sentence)),
    by,
    el("p", {}, why.state === "invalid" ? "Once it is mended: " : "To get the GPU: ", el("code", {}, shown(why.command))),
    why.target === null ? null : el("h3", {}, "What happened to it, the newest first"),
    why.target === null ? null : el("ol", { class: "story" }, ...lines),
  ].filter((one) => one !== null);
}
