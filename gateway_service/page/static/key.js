// The API key that the gateway may ask for (docs/callers.md). It stays in this tab until the tab is closed.

const NAME = "lipsync-key";
let kept = read();

function read() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return ""; // the browser keeps nothing for this page: the key lasts until it is loaded again
  }
}

/** Keeps a key; "" forgets it. */
export function keepKey(key) {
  kept = key;
  try {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
  } catch {
    // as above
  }
}

/** The headers of a request, with the key where there is one. */
export function keyHeaders() {
  return kept ? { Authorization: `Bearer ${kept}` } : {};
}

/** Tells if there is a key. */
export function hasKey() {
  return Boolean(kept);
}
