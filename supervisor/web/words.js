// Sizes, times and names as people read them. No DOM in here.

/** 15012 -> "14.7 GiB"; null -> "unknown". */
export function size(mib) {
  if (mib === null || mib === undefined) return "unknown";
  if (mib < 1024) return `${mib} MiB`;
  return `${(mib / 1024).toFixed(mib % 1024 === 0 ? 0 : 1)} GiB`;
}

/** 4210 -> "1 h 10 min"; below a minute in seconds. */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 10) return `${minutes} min ${s % 60} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

const clockFormat = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const shortFormat = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const dayFormat = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

export const clock = (time) => clockFormat.format(new Date(time));
export const shortClock = (time) => shortFormat.format(new Date(time));
export const day = (time) => dayFormat.format(new Date(time));

/** The name of what a lease or a ticket is for. */
export const forWhom = (one) => one.target ?? "a bare lease";

let offsetMs = 0;

/** Take the server's clock from the Date of an answer; it counts whole seconds. */
export function setClock(date) {
  const told = Date.parse(date ?? "");
  if (Number.isNaN(told)) return;
  const offset = told + 500 - Date.now();
  if (Math.abs(offset - offsetMs) > 1500) offsetMs = offset;
}

export const serverNow = () => Date.now() + offsetMs;
