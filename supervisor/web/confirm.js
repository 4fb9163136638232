// Ask before acting. The dialog keeps the focus inside; afterwards it goes back to where it was, or to `home`.

import { byId, setText } from "./dom.js";

/** Return whether the person says yes. `home`: what gets the focus if the button is gone by then. */
export function confirmed(title, text, verb, home) {
  const dialog = byId("confirm");
  const opener = document.activeElement;
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), verb);
  return new Promise((done) => {
    let said = false;
    byId("confirm-yes").onclick = () => ((said = true), dialog.close());
    byId("confirm-no").onclick = () => dialog.close();
    dialog.onclose = () => {
      if (opener?.isConnected) opener.focus();
      else home.focus();
      done(said);
    };
    dialog.showModal();
    byId("confirm-no").focus();
  });
}
