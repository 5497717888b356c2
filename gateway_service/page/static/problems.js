// What went wrong, in a sentence, and what to do about it.

const MICROPHONE = {
  NotAllowedError: "The browser was not allowed to use the microphone. Allow it beside the page's address, then try again.",
  NotFoundError: "No microphone was found. Plug one in, or use the recording, a file or a text.",
  NotReadableError: "Another program holds the microphone. Close that, then try again.",
  InsecureContext:
    "Browsers give the microphone only to pages over HTTPS, or opened as localhost on the machine itself. " +
    "Give the gateway a certificate (tls.certificate_file and tls.key_file), and open the page with https://.",
};

const SPEAKING = {
  UNIMPLEMENTED: "The server cannot speak texts: install espeak-ng there. Use the recording, a file or the microphone meanwhile.",
  UNAVAILABLE: "The server cannot speak texts: install espeak-ng there. Use the recording, a file or the microphone meanwhile.",
};

const ENDED = {
  NOT_FOUND: (error) => `There is no such avatar any more (${error.message}). Choose another one.`,
  FAILED_PRECONDITION: (error) => `This avatar is broken: ${error.message}. Choose another one.`,
  RESOURCE_EXHAUSTED: () => "The server is full. Try again in a while.",
};

/** `getUserMedia` failed. */
export function microphoneProblem(error) {
  return MICROPHONE[error.name] ?? `The microphone does not work here (${error.message}). Use the recording, a file or a text.`;
}

/** A text was not spoken. */
export function speakingProblem({ code, message }) {
  return SPEAKING[code] ?? `The text could not be spoken: ${message}.`;
}

/** A file is no sound. */
export function fileProblem(name) {
  return `“${name}” holds no sound that this browser can read. Try a WAV, MP3, Ogg or FLAC file.`;
}

/** The session has ended for good. */
export function endedProblem(error) {
  return ENDED[error.code]?.(error) ?? `The server ended the session: ${error.message}. Reload the page to begin again.`;
}

/** The session has no connection, and another attempt follows. */
export function waitingProblem({ wait_ms, error, lost }) {
  const soon = wait_ms >= 1000 ? `in ${Math.round(wait_ms / 1000)} s` : "at once";
  if (error.code === "RESOURCE_EXHAUSTED") return `The server is full. The page tries again ${soon}; leave it open.`;
  if (!lost) return `The gateway has no session to give (${error.message}). The page tries again ${soon}; leave it open.`;
  return `The connection was lost. The page connects again ${soon} and goes on where it was.`;
}

/** Another avatar could not be shown. */
export function switchProblem({ model_id, message }) {
  return `“${model_id}” cannot be shown: ${message}. The present one stays.`;
}
