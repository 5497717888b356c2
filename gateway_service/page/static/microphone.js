// The microphone as int16 chunks at 16 kHz with the moment of their first sample on the context's clock.

// The clocks of two contexts move in steps of some milliseconds; the difference is followed slowly.
const FOLLOW = 0.05;

export class Microphone {
  /** `heard` is called with ({start, samples}), `ended` when the microphone is taken away. */
  constructor(heard, ended) {
    this._heard = heard;
    this._ended = ended;
    this._stream = null;
    this._nodes = [];
    this._own = null; // a context of its own rate, where the page's cannot take the microphone
  }

  get on() {
    return this._stream !== null;
  }

  /** Asks for it. Raises what `getUserMedia` raises; with `echo` what the loudspeaker plays is taken out of it. */
  async start(context, { echo }) {
    if (!navigator.mediaDevices?.getUserMedia) throw new DOMException("no secure context", "InsecureContext");
    const wanted = { channelCount: 1, echoCancellation: echo, noiseSuppression: echo, autoGainControl: echo };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    let source = null;
    try {
      source = sourceOf(stream, context);
      await source.context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
      const capture = new AudioWorkletNode(source.context, "capture", {
        channelCount: 1,
        channelCountMode: "explicit",
        numberOfOutputs: 0,
      });
      const later = source.context === context ? () => 0 : follower(source.context, context);
      capture.port.onmessage = ({ data: { start, samples } }) => {
        if (this._stream === stream) this._heard({ start: start + later(), samples });
      };
      source.connect(capture);
      this.stop();
      this._nodes = [source, capture];
      this._own = source.context === context ? null : source.context;
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      if (source && source.context !== context) source.context.close();
      throw error;
    }
    this._stream = stream;
    for (const track of stream.getTracks()) track.onended = () => this._takenAway();
  }

  _takenAway() {
    if (!this.on) return;
    this.stop();
    this._ended();
  }

  stop() {
    for (const track of this._stream?.getTracks() ?? []) track.stop();
    for (const node of this._nodes) node.disconnect();
    this._own?.close();
    this._stream = this._own = null;
    this._nodes = [];
  }
}

/** The stream in the page's context, or in another: some browsers mix no sound of different rates. */
function sourceOf(stream, context) {
  try {
    return context.createMediaStreamSource(stream);
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    return new AudioContext({ latencyHint: "interactive" }).createMediaStreamSource(stream);
  }
}

/** Returns a function that tells by how much the clock of `to` is ahead of that of `from`, in seconds. */
function follower(from, to) {
  let ahead = null;
  return () => {
    const measured = to.currentTime - from.currentTime;
    ahead = ahead === null ? measured : ahead + FOLLOW * (measured - ahead);
    return ahead;
  };
}
