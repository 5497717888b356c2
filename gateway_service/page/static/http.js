// The gateway's answers over HTTP (docs/http.md).

import { hasKey, keyHeaders } from "./key.js";

/** Returns what is at an address. Raises TypeError where nothing answers, else an error with `code`, `message` and `retry_ms`. */
export async function getJson(path, method = "GET") {
  const answer = await fetch(path, { method, headers: keyHeaders() });
  if (!answer.ok) throw Object.assign(new Error(), await readProblem(answer));
  return answer.json();
}

/** Reads an answer that is an error. Returns {code, message, retry_ms}, the last where it makes sense to come back. */
export async function readProblem(answer) {
  const problem = await answer.json().catch(() => ({}));
  const retry_s = Number(answer.headers.get("Retry-After"));
  return {
    code: problem.code ?? "UNKNOWN",
    message: problem.detail ?? `the gateway answered ${answer.status}`,
    ...(retry_s && { retry_ms: 1000 * retry_s }),
  };
}

/** Shows a picture in an img element, which itself could send no key. */
export async function showPicture(image, path) {
  if (!hasKey()) {
    image.src = path;
    return;
  }
  const answer = await fetch(path, { headers: keyHeaders() }).catch(() => null);
  if (!answer?.ok) return;
  const url = URL.createObjectURL(await answer.blob());
  image.onload = image.onerror = () => URL.revokeObjectURL(url);
  image.src = url;
}

/** What the first message of a socket holds for the gateway to know the caller: a ticket, where there is a key. */
export async function ticket() {
  return hasKey() ? { ticket: (await getJson("api/tickets", "POST")).ticket } : {};
}
