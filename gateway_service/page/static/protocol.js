// The messages of /ws as values, both ways (docs/websocket.md). Nothing here keeps state.

export const RATE_HZ = 16000;
export const FRAME_MS = 40;
export const SAMPLES_A_FRAME = (RATE_HZ * FRAME_MS) / 1000;

const FRAME = 1;
const SOUND = 2;

/** One message up: an object with one key. */
export function write(name, content = {}) {
  return JSON.stringify({ [name]: content });
}

/** Reads a message that came down. Returns [name, content]; binary ones are named "frame" and "sound", unknown ones null. */
export function read(data) {
  return typeof data === "string" ? Object.entries(JSON.parse(data))[0] : readBinary(data);
}

function readBinary(buffer) {
  const view = new DataView(buffer);
  const header = view.getUint16(2, true);
  switch (view.getUint8(0)) {
    case FRAME:
      return ["frame", readFrame(view, new Uint8Array(buffer, header))];
    case SOUND:
      return ["sound", readSound(view, header)];
    default:
      return [null, null];
  }
}

function readFrame(view, picture) {
  return {
    speech: Boolean(view.getUint8(1) & 1),
    segment: view.getInt32(4, true),
    number: Number(view.getBigInt64(8, true)),
    pts_us: Number(view.getBigInt64(16, true)),
    audio_us: Number(view.getBigInt64(24, true)),
    position: view.getInt32(32, true),
    frame_index: view.getInt32(36, true),
    picture,
  };
}

function readSound(view, header) {
  const count = view.getInt32(20, true);
  const samples = new Int16Array(count);
  for (let at = 0; at < count; at += 1) samples[at] = view.getInt16(header + 2 * at, true);
  return {
    segment: view.getInt32(4, true),
    audio_us: Number(view.getBigInt64(8, true)),
    rate: view.getInt32(16, true),
    samples,
  };
}
