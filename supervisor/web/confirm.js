// Ask before acting. A dialog keeps the focus inside; afterwards it goes back to where it was, or to `home`.

import { byId, setText } from "./dom.js";

/** Open a dialog; resolves when it is closed. `home`: what gets the focus if the button is gone by then. */
export function closed(dialog, home) {
  const opener = document.activeElement;
  return new Promise((done) => {
    dialog.onclose = () => {
      if (opener?.isConnected) opener.focus();
      else home.focus();
      done();
    };
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
