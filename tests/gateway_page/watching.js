// What the tests see and hear of the page: the sound that reaches the loudspeaker, and the mouth on the canvas.

const heard = []; // {start, samples}: seconds of the context, int16

// Hands over everything that is played, 2,048 samples at a time.
const TAP = `
  class Tap extends AudioWorkletProcessor {
    constructor() {
      super();
      this._held = new Int16Array(2048);
      this._filled = 0;
    }

    process([[channel]]) {
      if (!this._filled) this._start = currentTime;
      for (let at = 0; at < 128; at += 1) this._held[this._filled + at] = Math.round(32768 * (channel?.[at] ?? 0));
      this._filled += 128;
      if (this._filled === this._held.length) {
        this.port.postMessage({ start: this._start, samples: this._held });
        this._filled = 0;
      }
      return true;
    }
  }

  registerProcessor("tap", Tap);
`;
const taps = new WeakMap();
const connect = AudioNode.prototype.connect;

function tap(context) {
  if (!taps.has(context))
    taps.set(context, context.audioWorklet.addModule(URL.createObjectURL(new Blob([TAP], { type: "text/javascript" }))).then(() => new AudioWorkletNode(context, "tap")));
  return taps.get(context);
}

AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    tap(this.context).then((node) => {
      node.port.onmessage = ({ data }) => heard.push(data);
      connect.call(this, node);
    });
  }
  return connect.call(this, target, ...rest);
};

/** Notes with each drawn frame [moment heard now, share of dark pixels in the box, number, segment, audio_us]. */
function watch([left, top, width, height]) {
  const canvas = document.getElementById("person");
  const mouth = Object.assign(document.createElement("canvas"), { width, height });
  const paint = mouth.getContext("2d", { willReadFrequently: true });
  const mouths = [];
  let last = null;
  const look = () => {
    if (!window.watched) return;
    requestAnimationFrame(look);
    const entry = window.lipsync.log.at(-1);
    if (!entry || entry === last) return;
    last = entry;
    paint.drawImage(canvas, -left, -top);
    const { data } = paint.getImageData(0, 0, width, height);
    let dark = 0;
    for (let at = 0; at < data.length; at += 4) dark += data[at] * 0.299 + data[at + 1] * 0.587 + data[at + 2] * 0.114 < 90;
    mouths.push([window.lipsync.clock.now(), dark / (width * height), ...entry.slice(0, 3)]);
  };
  heard.length = 0;
  window.watched = { mouths, heard };
  requestAnimationFrame(look);
}

function watched() {
  const { mouths } = window.watched;
  window.watched = null;
  const { sampleRate: rate } = window.lipsync.clock.context;
  return { mouths, rate, heard: heard.map(({ start, samples }) => [start, Array.from(samples)]) };
}

Object.assign(window, { watch, readWatched: watched });
