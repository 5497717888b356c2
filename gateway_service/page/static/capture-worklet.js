// Runs beside the sound: hands over what the microphone gave, 32 ms at a time, with the moment at which it began.

const CHUNK = 512; // four of the 128 samples that a worklet gets, so chunks come evenly

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this._chunk = new Int16Array(CHUNK);
    this._filled = 0;
    this._start = 0;
  }

  process([[channel]]) {
    if (!channel) return true;
    if (!this._filled) this._start = currentTime;
    for (const sample of channel) {
      this._chunk[this._filled] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      this._filled += 1;
    }
    if (this._filled === CHUNK) {
      this.port.postMessage({ start: this._start, samples: this._chunk });
      this._chunk = new Int16Array(CHUNK);
      this._filled = 0;
    }
    return true;
  }
}

registerProcessor("capture", Capture);
