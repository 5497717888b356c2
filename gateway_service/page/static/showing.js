// Draws frames by the audio clock: of those whose time has come the newest; older ones are dropped.

// What is drawn is seen with the next refresh of the screen: a frame may be drawn so much before its time.
const EARLY_S = 0.01;
// Frames drawn that the log keeps: ten minutes.
const LOGGED = 15000;

export class Showing {
  /** `drawn` is called with each frame after it was drawn. */
  constructor(canvas, clock, drawn) {
    this._canvas = canvas;
    this._paint = canvas.getContext("2d");
    this._clock = clock;
    this._drawn = drawn;
    this._waiting = []; // {frame, due, heard, bitmap}, in order
    this.stillAtRest = false;
    this.dropped = 0;
    /** Each drawn frame: [number, segment, audio_us, audio clock at its sound, audio clock when it was drawn], in seconds. */
    this.log = [];
    requestAnimationFrame(() => this._refresh());
  }

  /** Takes a frame that is due at `due`; `heard` is the moment of its sound where that is known otherwise. */
  async add(frame, due, heard) {
    const entry = { frame, due, heard, bitmap: null };
    this._waiting.push(entry);
    // A page that nobody sees draws nothing: what is past is let go.
    if (document.hidden) this._dropBefore(this._waiting.findLastIndex((each) => each.due <= this._clock.now()));
    try {
      entry.bitmap = await createImageBitmap(new Blob([frame.picture], { type: "image/jpeg" }));
    } catch {
      this._waiting = this._waiting.filter((each) => each !== entry);
      return;
    }
    if (!this._waiting.includes(entry)) entry.bitmap.close();
  }

  /** The clock took a step. */
  step(seconds) {
    for (const entry of this._waiting) {
      entry.due += seconds;
      entry.heard += seconds;
    }
  }

  _refresh() {
    requestAnimationFrame(() => this._refresh());
    const now = this._clock.now();
    const index = this._waiting.findLastIndex((entry) => entry.bitmap && entry.due <= now + EARLY_S);
    if (index < 0) return;
    const entry = this._waiting[index];
    this.dropped += this._dropBefore(index);
    this._waiting.shift();
    this._draw(entry, now);
    entry.bitmap.close();
  }

  _draw({ frame, heard, bitmap }, now) {
    if (this.stillAtRest && !frame.moves) return;
    if (this._canvas.width !== bitmap.width || this._canvas.height !== bitmap.height) {
      this._canvas.width = bitmap.width;
      this._canvas.height = bitmap.height;
    }
    this._paint.drawImage(bitmap, 0, 0);
    this.log.push([frame.number, frame.segment, frame.audio_us, heard, now]);
    if (this.log.length > LOGGED) this.log.splice(0, LOGGED / 2);
    this._drawn(frame, heard, now);
  }

  _dropBefore(index) {
    const dropped = index > 0 ? this._waiting.splice(0, index) : [];
    for (const { bitmap } of dropped) bitmap?.close();
    return dropped.length;
  }
}
