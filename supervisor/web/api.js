// Requests to this server, with the key of this tab where there is one.

import { setClock } from "./words.js";

const KEY = "gpu-supervisor-key";
const TIMEOUT_MS = 15_000;

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What the server refused. `code` is its stable word; `status` 0: no answer came. */
export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

export function headers(more = {}) {
  const secret = key.get();
  return secret ? { ...more, Authorization: `Bearer ${secret}` } : more;
}

/** Return the decoded answer, or throw `Refused` with the server's own sentence. */
export async function ask(path, { method = "GET", body = undefined } = {}) {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: headers(json),
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    throw unreachable();
  }
  setClock(answer.headers.get("Date"));
  // A line that is cut in the middle of an answer is no answer.
  if (answer.ok) return answer.json().catch(() => Promise.reject(unreachable()));
  throw await refusal(answer);
}

const unreachable = () => new Refused(0, "unreachable", "the supervisor does not answer");

export async function refusal(answer) {
  const said = await answer.json().catch(() => ({}));
  return new Refused(answer.status, said.code ?? "", said.detail ?? `answered ${answer.status}`);
}

export const part = (text) => encodeURIComponent(text);
