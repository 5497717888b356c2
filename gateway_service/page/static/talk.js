// One conversation: binds the session, the clock, the picture, the sound and the microphone together.

import { Clock } from "./clock.js";
import { Cushion } from "./cushion.js";
import { Figures } from "./figures.js";
import { Microphone } from "./microphone.js";
import { Playing } from "./playing.js";
import { FRAME_MS, RATE_HZ } from "./protocol.js";
import { Session } from "./session.js";
import { Showing } from "./showing.js";
import { Stream } from "./stream.js";
import { VoiceActivity } from "./voice.js";

const MESSAGE_SAMPLES = 3200;
// At first, with another person and after speech the picture moves for so many frames before it rests, where it is to rest at all.
const SETTLES_FRAMES = 12;
// Sound that is shown so much later than at best is caught up with in a pause.
const CATCH_UP_S = 0.08;
const CAUGHT_UP_S = 0.02;
// A context that does not run after so long has no loudspeaker. Should it run later, everything follows it from then on.
const RESUMES_MS = 2500;
// Chunks of the microphone, 32 ms each, from before the moment at which a voice is noticed.
const KEPT_CHUNKS = 10;
// A stream that has shown nothing after so long does not get through.
const STREAM_MS = 8000;

export class Talk {
  /** `changed` is called with (name, content) for everything that the screen should know. */
  constructor(url, canvas, video, options, changed) {
    this._changed = changed;
    this.clock = new Clock();
    this.cushion = new Cushion();
    this.figures = new Figures();
    this.showing = new Showing(canvas, this.clock, {
      drawn: (frame, heard, now) => this._drawn(frame, heard, now),
      decoded: (seconds) => this.cushion.decoded(seconds),
    });
    this.session = new Session(url, options, (name, content) => this._event(name, content));
    this.stream = new Stream(video, (name, content) => this._streamed(name, content));
    this.streaming = false; // picture and sound come over WebRTC
    this.hearYourself = false;
    this.mode = null; // "microphone", "file" or "text" while it is so; "rest" after the microphone
    this.level = 0;
    this._playing = new Playing();
    this._microphone = new Microphone((chunk) => this._speak(chunk), () => this._unplugged());
    this._guard = new Microphone((chunk) => this._overhear(chunk), () => this._changed("unplugged"));
    this._voice = new VoiceActivity();
    this._segment = null; // of the microphone
    this._shortest = Infinity; // delay of the microphone's picture, seconds
    this._unsent = null; // the last chunks of a pause that is not shown
    this._settling = SETTLES_FRAMES;
  }

  get listening() {
    return this._microphone.on;
  }

  /** Begins to listen. Raises what the browser says against it. */
  async listen() {
    await this._microphone.start(await this._running(), { echo: this.hearYourself });
    if (this.session.busy) this.interrupt();
    this._voice = new VoiceActivity();
    this._shortest = Infinity;
    this._unsent = null;
    this._begin("microphone");
  }

  /** Ends what was said; the rest of it is still shown. */
  stopListening() {
    this._microphone.stop();
    this._segment = null;
    this.session.endSegment();
    this.level = 0;
    this._begin("rest");
  }

  /** Speaks a sound file of any format that the browser reads. Raises DOMException for others. */
  async play(data) {
    await this._audio();
    const samples = mono(await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(data));
    this._stopAll();
    this._begin("file");
    const segment = this.session.begin("file");
    for (let at = 0; at < samples.length; at += MESSAGE_SAMPLES) segment.add(samples.subarray(at, at + MESSAGE_SAMPLES));
    this.session.endSegment();
  }

  /** Has the server speak a text; `voice` "": its default. */
  async say(text, voice) {
    await this._audio();
    this._stopAll();
    this._begin("text");
    this.session.speak(text, voice);
  }

  /** Drops everything that is not shown; sound ends at once. */
  interrupt() {
    this._playing.stop();
    this.showing.cut();
    this.session.interrupt();
    this._segment = null;
    if (!this._microphone.on) this._end();
  }

  /** Lets the microphone interrupt files and texts, or no longer. Raises what the browser says against it. */
  async guard(on) {
    if (!on) this._guard.stop();
    else await this._guard.start(await this._running(), { echo: true });
  }

  /** Shows the session over WebRTC, or frame by frame again. */
  showStream(on) {
    this.streaming = on;
    clearTimeout(this._streamTimer);
    if (!on) this.stream.close();
    this._playing.stop();
    this._changed("streaming", on);
    this.session.configure({ pictures: !on }); // `started` tells where the stream is
  }

  _stopAll() {
    if (this._microphone.on) this.stopListening();
    if (this.session.busy) this.interrupt();
  }

  _begin(mode) {
    this.mode = mode;
    this.session.wake();
    if (mode !== "rest") this.figures.ask(this.clock.now());
    this._changed("mode", mode);
  }

  _end() {
    this.mode = null;
    this._changed("mode", null);
  }

  /** The context for sound, which runs once somebody has touched the page; not where there is nothing to play it. */
  async _audio() {
    if (!this._context) {
      this._context = newContext();
      this._playing.use(this._context);
      // It can be taken away, by a telephone call for one: then it stands still for a while.
      this._context.onstatechange = () => this._follow();
    }
    await Promise.race([this._context.resume(), new Promise((over) => setTimeout(over, RESUMES_MS))]);
    if (this._context.state !== "running") this._changed("silent");
    else if (!this.clock.context) this._follow();
    return this._context;
  }

  /** The same for the microphone, which nothing gives without it. */
  async _running() {
    const context = await this._audio();
    if (context.state !== "running") throw new DOMException("there is no output for sound", "NoOutput");
    return context;
  }

  /** Everything is shown by the sound, from where it is now. */
  _follow() {
    if (this._context.state !== "running") return;
    this._changed("audible");
    const step = this.clock.follow(this._context);
    this.cushion.step(step);
    this.showing.step(step);
    this.figures.step(step);
  }

  // The microphone

  _unplugged() {
    this.stopListening();
    this._changed("unplugged");
  }

  _speak({ start, samples }) {
    this._voice.hear(samples, (1000 * samples.length) / RATE_HZ);
    this.level = Math.max(0, 1 + this._voice.db / 60);
    if (!this.session.live) {
      this._segment = null;
      return;
    }
    this._pause(start, samples);
    if (this._unsent) return;
    this._segment ??= this.session.begin("microphone", { start });
    this.session.push(this._segment, samples);
  }

  /** After a stall speech is shown later than before: in a pause silence is not sent until that is made up for. */
  _pause(start, samples) {
    const delay = this._segment?.delay ?? null;
    if (delay !== null) this._shortest = Math.min(this._shortest, delay);
    if (!this._unsent && delay > this._shortest + CATCH_UP_S && !this._voice.speaking) {
      this.session.endSegment();
      this._segment = null;
      this._unsent = [];
    }
    if (!this._unsent) return;
    if (this._voice.speaking || (!this.session.busy && this.cushion.excess < CAUGHT_UP_S)) {
      this._segment = this.session.begin("microphone", { start: this._unsent[0]?.start ?? start });
      for (const chunk of this._unsent) this.session.push(this._segment, chunk.samples);
      this._unsent = null;
      return;
    }
    this._unsent = [...this._unsent, { start, samples }].slice(-KEPT_CHUNKS);
  }

  _overhear({ samples }) {
    const happened = this._voice.hear(samples, (1000 * samples.length) / RATE_HZ);
    if (happened === "begins" && this.session.busy && !this._microphone.on) {
      this.interrupt();
      this._changed("overheard");
    }
  }

  // The session

  _event(name, content) {
    if (name === "frame") {
      this._frame(content);
      return;
    }
    if (name === "status") this.figures.told(content);
    if (name === "started" && this.streaming) this._openStream(content.secret);
    if (name === "avatar_switched") this._settling = SETTLES_FRAMES;
    if (name === "failed") this._microphone.stop();
    if (name === "speak_failed" || name === "failed") this._end();
    this._changed(name, content);
  }

  _frame(frame) {
    const { source } = frame;
    const due = this.cushion.arrived(frame.number, this.clock.next(), !source);
    this._settling = source ? SETTLES_FRAMES : this._settling - 1;
    frame.moves = this._settling > 0;
    if (this.streaming) {
      this._pass(frame);
      return;
    }
    let heard = due;
    if (source) {
      const audible = source.kind !== "microphone" || this.hearYourself;
      frame.loudness = this._playing.play(source, frame.audio_us / 1000 / FRAME_MS, due, audible);
      if (source.start !== null) heard = captured(source, frame.audio_us / 1e6, due);
    }
    this.showing.add(frame, heard, heard);
  }

  /** A frame that the stream shows. */
  _pass(frame) {
    const { source } = frame;
    if (source) frame.loudness = this._playing.play(source, frame.audio_us / 1000 / FRAME_MS, 0, false);
    if (source && this._context) this.stream.audible(source.kind !== "microphone" || this.hearYourself);
    this._shown(frame);
  }

  async _openStream(secret) {
    clearTimeout(this._streamTimer);
    this._streamTimer = setTimeout(() => this._streamed("lost"), STREAM_MS);
    try {
      await this.stream.open(`api/sessions/${secret}/whep`);
    } catch (error) {
      this._streamed("lost", error);
    }
  }

  /** What becomes of the stream. Without it the session is shown frame by frame. */
  _streamed(name, content) {
    if (!this.streaming) return;
    if (name === "shown") clearTimeout(this._streamTimer);
    if (name === "lost") this.showStream(false);
    this._changed(`stream_${name}`, content);
  }

  _drawn(frame, heard, now) {
    this.figures.drawn(frame, heard, now);
    this._shown(frame);
  }

  _shown(frame) {
    if (this.mode !== "microphone") this.level = frame.source ? Math.min(1, 4 * frame.loudness) : 0;
    this._changed("level", this.level);
    const over = !frame.source && !this.session.busy && !this._microphone.on;
    if (this.mode && over) this._end();
  }
}

/**
 * The moment for a frame of the microphone: that at which its sound was captured, and a delay that stays the same for the whole
 * segment unless the session stalled. `due`: the moment by the frame's number.
 */
function captured(segment, seconds, due) {
  const moment = segment.start + seconds;
  if (segment.delay === null || Math.abs(due - moment - segment.delay) > 0.002) segment.delay = due - moment;
  return moment + segment.delay;
}

/** A context at the rate of the session, or at that of the machine where the browser knows no other. */
function newContext() {
  const options = { latencyHint: "interactive" };
  try {
    return new AudioContext({ ...options, sampleRate: RATE_HZ });
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    return new AudioContext(options);
  }
}

/** The mean of all channels as int16. */
function mono(buffer) {
  const samples = new Int16Array(buffer.length);
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, index) => buffer.getChannelData(index));
  for (let at = 0; at < samples.length; at += 1) {
    let sum = 0;
    for (const channel of channels) sum += channel[at];
    samples[at] = Math.max(-32768, Math.min(32767, Math.round((sum / channels.length) * 32768)));
  }
  return samples;
}
