// The audit as it happens. EventSource cannot send a key, so the stream is read with fetch, by the same rules.
// Source: WHATWG HTML, "Server-sent events", section "Interpreting an event stream".

import { headers, refusal } from "./api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
// A comment comes every 15 s: a line that is silent for longer is dead, whatever the socket says.
const SILENCE_MS = 40_000;

/** Follow for ever. `on`: {event(data), live(), lost(seconds, why), refused(error)}; `begin`: the last seq that is known. */
export class Stream {
  constructor(path, on, begin) {
    this.path = path;
    this.on = on;
    this.last = begin;
    this.waitMs = FIRST_WAIT_MS;
    this.again = null;
    this.wake = () => {};
    window.addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.hurry());
  }

  /** Try again at once: the key is another, the network is back, or somebody looks. */
  hurry(restart = false) {
    this.waitMs = FIRST_WAIT_MS;
    if (restart) this.again?.abort();
    this.wake();
  }

  async follow() {
    for (;;) {
      let why = "the line was closed";
      try {
        await this.connect();
      } catch (error) {
        why = error.message;
        if (error.status) this.on.refused(error);
      }
      // Jitter: after a restart not every open page comes at once.
      const waitMs = this.waitMs * (0.75 + Math.random() / 2);
      this.waitMs = Math.min(LONGEST_WAIT_MS, this.waitMs * 2);
      this.on.lost(waitMs / 1000, why);
      await new Promise((done) => {
        const timer = setTimeout(done, waitMs);
        this.wake = () => (clearTimeout(timer), done());
      });
      this.wake = () => {};
    }
  }

  async connect() {
    this.again = new AbortController();
    const { signal } = this.again;
    let watchdog = 0;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => this.again.abort(), SILENCE_MS);
    };
    alive();
    try {
      const asked = headers({ Accept: "text/event-stream", ...(this.last === null ? {} : { "Last-Event-ID": this.last }) });
      const answer = await fetch(this.path, { headers: asked, cache: "no-store", credentials: "omit", signal });
      if (!answer.ok) throw await refusal(answer);
      this.waitMs = FIRST_WAIT_MS;
      this.on.live();
      await this.read(answer.body, alive);
    } finally {
      clearTimeout(watchdog);
    }
  }

  async read(body, alive) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      alive();
      const frames = (rest + value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) this.take(frame);
    }
  }

  take(frame) {
    let data = null;
    for (const line of frame.split("\n")) {
      if (line.startsWith("id: ")) this.last = line.slice(4);
      else if (line.startsWith("data: ")) data = line.slice(6);
    }
    if (data !== null) this.on.event(JSON.parse(data));
  }
}
