// Ask before acting. A dialog keeps the focus inside; afterwards it goes back to where it was, or to `home`.

import { byId, setText } from "./dom.js";

/** Who waits for a dialog to be closed, in order: the event comes a while after it, perhaps when it is open again. */
const waiting = new WeakMap();

/** Open a dialog; resolves when it is closed. `home`: what gets the focus if the button is gone by then. */
export function closed(dialog, home) {
  const opener = document.activeElement;
  if (!waiting.has(dialog)) {
    waiting.set(dialog, []);
    dialog.addEventListener("close", () => waiting.get(dialog).shift()());
  }
  return new Promise((done) => {
    waiting.get(dialog).push(() => {
      if (!dialog.open) (opener?.isConnected ? opener : home).focus();
      done();
    });
    dialog.showModal();
  });
}

/** Return whether the person says yes. */
export async function confirmed(title, text, verb, home) {
  const dialog = byId("confirm");
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), verb);
  let said = false;
  byId("confirm-yes").onclick = () => ((said = true), dialog.close());
  byId("confirm-no").onclick = () => dialog.close();
  const over = closed(dialog, home);
  byId("confirm-no").focus();
  await over;
  return said;
}
