// Another place in the queue for a ticket: a priority is asked for, and the place it would give is said beforehand.

import { ask, part } from "./api.js";
import { closed } from "./confirm.js";
import { byId, setText, shown } from "./dom.js";
import { forWhom } from "./words.js";

/** Move a ticket, or with `dry_run` only ask where that would put it. */
export function move(ticket, priority, more = {}) {
  return ask(`v1/leases/${part(ticket.id)}/move`, { method: "POST", body: { priority, ...more } });
}

/** Return the priority that a person chooses, or null. */
export async function chosenPriority(ticket, home) {
  const dialog = byId("move-dialog");
  const value = byId("move-value");
  let chosen = null;
  let asked = 0;

  async function foretell() {
    const mine = ++asked;
    const said = value.validity.valid ? await foretold(ticket, value.valueAsNumber) : "a whole number from -1000 to 1000";
    // What is typed meanwhile has an answer of its own.
    if (mine === asked) setText(byId("move-place"), shown(said));
  }

  setText(byId("move-title"), shown(`Move the ticket of ${ticket.owner} for ${forWhom(ticket)}?`));
  setText(byId("move-place"), "");
  value.value = String(ticket.priority);
  value.oninput = foretell;
  byId("move-no").onclick = () => dialog.close();
  byId("move-form").onsubmit = (event) => {
    event.preventDefault();
    chosen = value.valueAsNumber;
    dialog.close();
  };
  const over = closed(dialog, home);
  value.select();
  foretell();
  await over;
  asked += 1;
  return chosen;
}

async function foretold(ticket, priority) {
  try {
    const { position, reason } = await move(ticket, priority, { dry_run: true });
    return position === null || position === undefined ? reason.replaceAll("_", " ") : `It would be at place ${position + 1}.`;
  } catch (error) {
    return error.message;
  }
}
