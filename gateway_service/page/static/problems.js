// What went wrong, in a sentence, and what to do about it.

const MICROPHONE = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it beside the page's address, then try again.",
  NotFoundError: "No microphone was found. Plug one in, or use the recording, a file or a text.",
  NotReadableError: "Another program holds the microphone. Close that, then try again.",
  NoOutput:
    "The browser has no output for sound, and runs the microphone only with one. Connect a loudspeaker or headphones, then try again.",
  InsecureContext:
    "Browsers give the microphone only to pages over HTTPS, or opened as localhost on the machine itself. " +
    "Give the gateway a certificate (tls.certificate_file and tls.key_file), and open the page with https://.",
};

const NO_TEXTS = "The server cannot speak texts: install espeak-ng there. Use the recording, a file or the microphone meanwhile.";

const ENDED = {
  NOT_FOUND: (error) => `There is no such avatar any more (${error.message}). Choose another one.`,
  FAILED_PRECONDITION: (error) => `This avatar is broken: ${error.message}. Choose another one.`,
  RESOURCE_EXHAUSTED: (error) => `The server has no room: ${error.message}.`,
  UNAUTHENTICATED: (error) => `The gateway does not let this page in: ${error.message}.`,
  PERMISSION_DENIED: (error) => `The gateway does not let this page in: ${error.message}.`,
};

const LISTING = {
  RESOURCE_EXHAUSTED: () => "The server is busy, and cannot say now which persons it has.",
  UNAVAILABLE: () => "The gateway runs, but no compositing service answers it. Look whether one runs, and where.",
};

/** `getUserMedia` failed. */
export function microphoneProblem(error) {
  return MICROPHONE[error.name] ?? `The microphone does not work here (${error.message}). Use the recording, a file or a text.`;
}

/** Sound is not heard. */
export const SILENT = "The browser has no output for sound: the picture comes without it. Connect a loudspeaker or headphones to hear it.";

/** A text was not spoken. */
export function speakingProblem({ code, message }) {
  return code === "UNIMPLEMENTED" ? NO_TEXTS : `The text could not be spoken: ${message}.`;
}

/** A file is no sound. */
export function fileProblem(name) {
  return `“${name}” holds no sound that this browser can read. Try a WAV, MP3, Ogg or FLAC file.`;
}

/** The gateway does not take the key. */
export function keyProblem({ message }) {
  return `The server does not take this key: ${message}.`;
}

/** The avatars cannot be listed, and another attempt follows. */
export function listProblem({ code, message }) {
  if (!code) return "The gateway does not answer. Look whether it runs; the page tries again by itself.";
  const problem = LISTING[code]?.() ?? `The gateway does not say which persons it has: ${message}.`;
  return `${problem} The page tries again by itself.`;
}

/** The session has ended until somebody wants it to go on. `idle_ms`: it ends when nobody uses it for so long. */
export function endedProblem(error, idle_ms) {
  if (error.code === "DEADLINE_EXCEEDED" && idle_ms) {
    return `Nobody has spoken or typed for ${duration(idle_ms)}, so the session ended to leave its place to others.`;
  }
  return ENDED[error.code]?.(error) ?? `The server ended the session: ${error.message}.`;
}

/** The session has no connection, and another attempt follows. */
export function waitingProblem({ error, lost }) {
  if (error.code === "RESOURCE_EXHAUSTED") return `The server has no room: ${error.message}. The page tries again by itself; leave it open.`;
  if (!lost) return `There is no session yet (${error.message}). The page tries again by itself; leave it open.`;
  return "The connection was lost. The page connects again by itself, and goes on where it was.";
}

/** The page's address names an avatar that is not there. */
export function absentProblem(asked, shown) {
  return `There is no person “${asked}” here: “${shown}” is shown.`;
}

/** Another avatar could not be shown. */
export function switchProblem({ model_id, message }) {
  return `“${model_id}” cannot be shown: ${message}. The present one stays.`;
}

/** WebRTC did not show the session, with an error of the gateway or without. */
export function streamProblem(error) {
  const reason = error?.message ? `: ${error.message}` : ": a firewall may keep UDP away";
  return `WebRTC does not get through${reason}. The picture goes on over the WebSocket.`;
}

function duration(milliseconds) {
  const seconds = Math.round(milliseconds / 1000);
  return seconds >= 120 ? `${Math.round(seconds / 60)} minutes` : `${seconds} s`;
}
