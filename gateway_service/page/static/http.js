// The gateway's answers over HTTP (docs/http.md).

/** Returns what is at an address. Raises TypeError where nothing answers, else an error with `code`, `message` and `retry_ms`. */
export async function getJson(path) {
  const answer = await fetch(path);
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
