// What the containers of a target last wrote, read anew for as long as it is looked at.

import { ask, part } from "./api.js";
import { closed } from "./confirm.js";
import { byId, el, setText, shown } from "./dom.js";

const AGAIN_MS = 2_000;

export async function showLogs(name, home) {
  const dialog = byId("logs-dialog");
  const place = byId("logs-text");

  async function read() {
    try {
      const found = await ask(`v1/targets/${part(name)}/logs`);
      const now = JSON.stringify(found);
      if (!dialog.open || place.dataset.shown === now) return;
      place.dataset.shown = now;
      place.replaceChildren(...told(found));
      place.scrollTop = place.scrollHeight;
    } catch (error) {
      delete place.dataset.shown;
      place.replaceChildren(el("p", { class: "warning" }, shown(error.message)));
    }
  }

  setText(byId("logs-title"), shown(`What ${name} last wrote`));
  delete place.dataset.shown;
  place.replaceChildren(el("p", { class: "quiet" }, "reading"));
  byId("logs-close").onclick = () => dialog.close();
  const over = closed(dialog, home);
  read();
  const again = setInterval(read, AGAIN_MS);
  await over;
  clearInterval(again);
}

function told(found) {
  const parts = found.containers.flatMap((one) => [
    el("h3", {}, shown(one.container)),
    one.lines.length > 0 ? el("pre", {}, one.lines.map(shown).join("\n")) : el("p", { class: "quiet" }, "It wrote nothing, or cannot be asked."),
  ]);
  if (parts.length === 0) parts.push(el("p", { class: "quiet" }, "It has no containers."));
  if (found.left_out > 0) parts.push(el("p", { class: "quiet" }, `and ${found.left_out} more containers`));
  return parts;
}
