// The microphone as int16 chunks with the moment of their first sample on the context's clock.

export class Microphone {
  /** `heard` is called with ({start, samples}), `ended` when the microphone is taken away. */
  constructor(heard, ended) {
    this._heard = heard;
    this._ended = ended;
    this._stream = null;
    this._nodes = [];
  }

  get on() {
    return this._stream !== null;
  }

  /** Asks for it. Raises what `getUserMedia` raises; with `echo` what the loudspeaker plays is taken out of it. */
  async start(context, { echo }) {
    if (!navigator.mediaDevices?.getUserMedia) throw new DOMException("no secure context", "InsecureContext");
    const wanted = { channelCount: 1, echoCancellation: echo, noiseSuppression: echo, autoGainControl: echo };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted });
    try {
      await context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
      const source = context.createMediaStreamSource(stream);
      const capture = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit", numberOfOutputs: 0 });
      capture.port.onmessage = ({ data }) => this.on && this._heard(data);
      source.connect(capture);
      this.stop();
      this._nodes = [source, capture];
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
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
    this._stream = null;
    this._nodes = [];
  }
}
