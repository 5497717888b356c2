// Draws frames by the audio clock: of those whose time has come the newest; older ones are dropped.

// What is drawn is seen with the next refresh of the screen: a frame may be drawn so much before its time.
const EARLY_S = 0.01;
// A mouth that is so late belongs to other sound. It is drawn only where the picture would stand still for long.
const LATE_S = 0.1;
const STILL_S = 0.4;
// Pictures that are decoded at the same time: more of them only get in each other's way.
const DECODERS = 2;
// A mouth moves at most so long after an interrupt.
const CUT_S = 0.14;
// Frames drawn that the log keeps: ten minutes.
const LOGGED = 15000;

export class Showing {
  /** `drawn` is called with each frame after it was drawn, `decoded` with the seconds from a frame's coming to its picture. */
  constructor(canvas, clock, { drawn, decoded }) {
    this._canvas = canvas;
    this._paint = canvas.getContext("2d");
    this._clock = clock;
    this._drawn = drawn;
    this._decoded = decoded;
    this._waiting = []; // {frame, due, heard, came, decoding, bitmap}, in order
    this._decoding = 0;
    this._last = -Infinity; // when a frame was drawn
    this._cut = 0; // dropped speech is not drawn after this
    this._moved = -1; // number of the last frame that moves also where the person rests
    this._shown = -1; // of the last one drawn
    this.stillAtRest = false;
    this.dropped = 0;
    /** Each drawn frame: [number, segment, audio_us, audio clock at its sound, audio clock when it was drawn], in seconds. */
    this.log = [];
    requestAnimationFrame(() => this._refresh());
  }

  /** Takes a frame that is to be drawn at `due`; `heard` is the moment of its sound. */
  add(frame, due, heard) {
    if (isCut(frame) && due > this._cut) {
      this.dropped += 1;
      return;
    }
    if (frame.moves) this._moved = frame.number;
    this._waiting.push({ frame, due, heard, came: performance.now(), decoding: false, bitmap: null });
    this._decode();
  }

  /** Speech was dropped: what was to be shown of it later than a moment from now is not. */
  cut() {
    this._cut = this._clock.now() + CUT_S;
    this._drop(this._waiting.filter(({ frame, due }) => frame.source && due > this._cut));
  }

  /** The clock took a step. */
  step(seconds) {
    this._last += seconds;
    this._cut += seconds;
    for (const entry of this._waiting) {
      entry.due += seconds;
      entry.heard += seconds;
    }
  }

  /** Keeps the decoders busy with what can still be drawn in time. */
  _decode() {
    while (this._decoding < DECODERS) {
      const now = this._clock.now();
      const open = this._waiting.filter((entry) => !entry.decoding);
      const entry = open.find(({ due }) => due > now) ?? open.at(-1);
      if (!entry || (document.hidden && entry.due <= now)) return this._letGo(now);
      this._drop(open.slice(0, open.indexOf(entry)));
      this._begin(entry);
    }
  }

  /** A page that nobody sees draws nothing: what is past does not pile up. */
  _letGo(now) {
    if (document.hidden) this._drop(this._waiting.filter(({ due }) => due <= now));
  }

  async _begin(entry) {
    entry.decoding = true;
    this._decoding += 1;
    try {
      entry.bitmap = await createImageBitmap(new Blob([entry.frame.picture], { type: "image/jpeg" }));
      this._decoded((performance.now() - entry.came) / 1000);
      if (!this._waiting.includes(entry)) entry.bitmap.close();
    } catch {
      this._drop([entry]);
    }
    this._decoding -= 1;
    this._decode();
  }

  _refresh() {
    requestAnimationFrame(() => this._refresh());
    const now = this._clock.now();
    const index = this._waiting.findLastIndex((entry) => entry.bitmap && entry.due <= now + EARLY_S);
    if (index < 0) return;
    const entry = this._waiting[index];
    this._drop(this._waiting.slice(0, index));
    this._waiting.shift();
    if (now - entry.due > LATE_S && now - this._last < STILL_S) this.dropped += 1;
    else this._draw(entry, now);
    entry.bitmap.close();
  }

  _draw({ frame, heard, bitmap }, now) {
    this._last = now;
    // One that came too late to be drawn is made up for.
    if (this.stillAtRest && !frame.moves && this._shown >= this._moved) return;
    this._shown = frame.number;
    if (this._canvas.width !== bitmap.width || this._canvas.height !== bitmap.height) {
      this._canvas.width = bitmap.width;
      this._canvas.height = bitmap.height;
    }
    this._paint.drawImage(bitmap, 0, 0);
    this.log.push([frame.number, frame.segment, frame.audio_us, heard, now]);
    if (this.log.length > LOGGED) this.log.splice(0, LOGGED / 2);
    this._drawn(frame, heard, now);
  }

  _drop(entries) {
    for (const { bitmap } of entries) bitmap?.close();
    this._waiting = this._waiting.filter((entry) => !entries.includes(entry));
    this.dropped += entries.length;
  }
}

/** A frame of speech that was dropped before it came. */
function isCut({ source, audio_us }) {
  return audio_us >= 0 && !source;
}
