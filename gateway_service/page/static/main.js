// Puts the page together: what each control does.
//
// For tests and the curious, `window.lipsync` is the conversation; `window.lipsync.log` lists each drawn frame as
// [number, segment, audio_us, audio clock at its sound, audio clock when it was drawn], times in seconds, audio_us -1 while idle.

import { markAvatar, showAvatars } from "./avatars.js";
import { getJson } from "./http.js";
import { hasKey, keepKey } from "./key.js";
import {
  SILENT,
  absentProblem,
  endedProblem,
  fileProblem,
  keyProblem,
  listProblem,
  microphoneProblem,
  speakingProblem,
  streamProblem,
  switchProblem,
  waitingProblem,
} from "./problems.js";
import { Screen } from "./screen.js";
import { Talk } from "./talk.js";

const at = (id) => document.getElementById(id);
const url = new URL("ws", document.baseURI);
url.protocol = url.protocol.replace("http", "ws");
const options = { quality_preset: at("quality").value, look_ahead_frames: Number(at("look-ahead").value), cushion_ms: 60 };
const talk = new Talk(url, at("person"), at("stream"), options, (name, content) => happened[name]?.(content));
const screen = new Screen(talk);
let absent = null; // the problem of an address that names nobody, until it was told
let source = "file"; // of what is played: "file" or "recording"
let idleMs = 0; // a session that is not used for so long ends; 0: none does
const LIST_AGAIN_MS = 3000;
const NOT_LET_IN = new Set(["UNAUTHENTICATED", "PERMISSION_DENIED"]);

Object.defineProperty(talk, "log", { get: () => talk.showing.log });
window.lipsync = talk;

const happened = {
  connecting: (content) => {
    screen.connection("waiting");
    const { attempt, error, wait_ms } = content;
    if (attempt > 1 || error.code === "RESOURCE_EXHAUSTED") screen.problem(waitingProblem(content), { wait_ms });
  },
  slow: () => screen.say("The server prepares the person. This can take a while the first time."),
  connected: ({ resumed, seconds }) => {
    screen.connection("live");
    screen.offer();
    screen.problem(absent);
    absent = null;
    if (!talk.mode) screen.mode(null);
    if (resumed && seconds > 0.5) screen.say(`The connection was lost for ${seconds.toFixed(1)} s; it goes on.`);
    markAvatar(at("avatars"), talk.session.avatar);
  },
  started: ({ idle_timeout_ms }) => {
    idleMs = idle_timeout_ms;
    screen.still(null);
  },
  failed: (error) => {
    screen.connection("ended");
    screen.say("The session has ended.");
    if (NOT_LET_IN.has(error.code)) screen.askForKey(true);
    const action = error.code === "DEADLINE_EXCEEDED" ? "Go on" : "Try again";
    screen.problem(endedProblem(error, idleMs), { action, act: goOn });
  },
  mode: (mode) => screen.mode(mode === "file" ? source : mode),
  level: (loudness) => screen.level(loudness),
  streaming: (on) => {
    at("transport").value = on ? "webrtc" : "websocket";
    screen.streaming(on);
  },
  stream_shown: () => screen.streamShown(),
  stream_figures: (figures) => screen.streamFigures(figures),
  stream_lost: (error) => screen.problem(streamProblem(error)),
  unplugged: () => {
    at("guard").checked = false;
    screen.problem("The microphone was taken away. Plug it in, and try again.");
  },
  silent: () => screen.problem(SILENT),
  audible: () => screen.retract(SILENT),
  overheard: () => screen.say("Interrupted: you spoke."),
  resumed: ({ seconds }) => screen.say(`The server lost a service for ${seconds.toFixed(1)} s; it goes on.`),
  speak_failed: (error) => screen.problem(speakingProblem(error)),
  avatar_switched: ({ model_id }) => markAvatar(at("avatars"), model_id),
  switch_failed: (failure) => {
    if (failure.code !== "ABORTED") screen.problem(switchProblem(failure));
    markAvatar(at("avatars"), talk.session.avatar);
  },
};

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(at("key").value.trim());
  at("key").value = "";
  screen.askForKey(false);
  screen.problem(null);
  screen.say("Connecting…");
  begin();
});

function goOn() {
  screen.problem(null);
  screen.connection("waiting");
  talk.session.wake();
}

at("microphone").addEventListener("click", async () => {
  screen.problem(null);
  if (talk.listening) {
    talk.stopListening();
    return;
  }
  try {
    await talk.listen();
  } catch (error) {
    screen.problem(microphoneProblem(error));
  }
});

at("recording").addEventListener("click", async () => {
  const answer = await fetch(new URL("speech.flac", import.meta.url));
  await play("recording", "the recording", await answer.arrayBuffer());
});

at("file").addEventListener("click", () => at("file-input").click());
at("file-input").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (file) await play("file", file.name, await file.arrayBuffer());
  target.value = "";
});

async function play(kind, name, data) {
  screen.problem(null);
  source = kind;
  try {
    await talk.play(data);
  } catch {
    screen.problem(fileProblem(name));
  }
}

at("text-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  screen.problem(null);
  if (text) talk.say(text, at("voice").value);
});

at("interrupt").addEventListener("click", () => talk.interrupt());
at("quality").addEventListener("change", ({ target }) => talk.session.configure({ quality_preset: target.value }));
at("look-ahead").addEventListener("change", ({ target }) => talk.session.configure({ look_ahead_frames: Number(target.value) }));
at("transport").addEventListener("change", ({ target }) => talk.showStream(target.value === "webrtc"));
at("hear").addEventListener("change", ({ target }) => (talk.hearYourself = target.checked));
at("rest").addEventListener("change", ({ target }) => (talk.showing.stillAtRest = !target.checked));
at("guard").addEventListener("change", async ({ target }) => {
  try {
    await talk.guard(target.checked);
  } catch (error) {
    target.checked = false;
    screen.problem(microphoneProblem(error));
  }
});

if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  at("rest").checked = false;
  talk.showing.stillAtRest = true;
}

async function begin() {
  let about, avatars;
  try {
    about = await getJson("api/page.json");
    if (about.asks_for_key && !hasKey()) {
      screen.askForKey(true);
      screen.say("This server wants to know who you are.");
      return;
    }
    ({ avatars } = await getJson("api/avatars"));
  } catch (error) {
    if (NOT_LET_IN.has(error.code)) {
      screen.askForKey(true);
      screen.problem(keyProblem(error));
      return;
    }
    const wait_ms = error.retry_ms ?? LIST_AGAIN_MS;
    screen.problem(listProblem(error), { wait_ms });
    setTimeout(begin, wait_ms);
    return;
  }
  offerTexts(about.speech);
  at("transports").hidden = !about.webrtc.available || !window.RTCPeerConnection;
  const asked = new URLSearchParams(location.search).get("avatar");
  const first = avatars.find(({ id }) => id === asked) ?? avatars.find(({ error }) => !error);
  screen.problem(first ? null : "The server has no avatar to show. Make one with `lipsync avatar demo`, then reload the page.");
  if (!first) return;
  if (asked && first.id !== asked) absent = absentProblem(asked, first.id);
  showAvatars(at("avatars"), avatars, first.id, (id) => talk.session.switchAvatar(id));
  screen.still(first);
  talk.session.open(first.id);
}

/** Sets up what the server can say of texts: the voices that it has, or nothing. */
function offerTexts({ available, voice, voices, max_characters }) {
  at("text").maxLength = max_characters;
  screen.speaksTexts = available;
  at("no-texts").hidden = available;
  at("voices").hidden = !voices.length;
  const names = voices.filter(({ id }) => id !== voice).map(({ id, name }) => new Option(name, id));
  at("voice").replaceChildren(new Option("server’s choice", ""), ...names);
}

begin();
