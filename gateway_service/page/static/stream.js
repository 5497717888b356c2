// Picture and sound over WebRTC, by WHEP (docs/webrtc.md), and what the browser says of them.

import { keyHeaders } from "./key.js";
import { readProblem } from "./http.js";

// All candidates of a browser on most machines are there in far less; what comes later is not needed.
const GATHERING_MS = 1000;
const LOOK_MS = 1000;

export class Stream {
  /** `changed` is called with "shown" at the first picture, with "figures" and an object each second, and with "lost". */
  constructor(video, changed) {
    this._video = video;
    this._changed = changed;
    this._connection = null;
    this._address = null; // of this viewer
    this._looking = 0;
    this._before = null; // statistics of the last look
  }

  /** Shows what is at an address, in place of what was shown before. Raises an error with `code` and `message`. */
  async open(address) {
    this.close();
    const connection = new RTCPeerConnection();
    this._connection = connection;
    const stream = new MediaStream();
    connection.ontrack = ({ track }) => stream.addTrack(track);
    connection.onconnectionstatechange = () => {
      if (connection === this._connection && connection.connectionState === "failed") this._changed("lost");
    };
    for (const kind of ["video", "audio"]) connection.addTransceiver(kind, { direction: "recvonly" });
    await connection.setLocalDescription();
    await gathered(connection);
    if (connection !== this._connection) return;
    const headers = { "Content-Type": "application/sdp", ...keyHeaders() };
    const answer = await fetch(address, { method: "POST", headers, body: connection.localDescription.sdp });
    if (!answer.ok) {
      this.close();
      throw Object.assign(new Error(), await readProblem(answer));
    }
    const mine = answer.headers.get("Location");
    const sdp = await answer.text();
    if (connection !== this._connection) {
      leave(mine);
      return;
    }
    this._address = mine;
    this._video.srcObject = stream;
    this._video.requestVideoFrameCallback?.(() => connection === this._connection && this._changed("shown"));
    await connection.setRemoteDescription({ type: "answer", sdp });
    await this._video.play().catch(() => {}); // without a touch of the page it is silent: see `audible`
    this._looking = setInterval(() => this._look(connection), LOOK_MS);
  }

  /** Lets the sound be heard, or not. */
  audible(wanted) {
    this._video.muted = !wanted;
    if (wanted && this._connection) this._video.play().catch(() => {});
  }

  close() {
    clearInterval(this._looking);
    this._connection?.close();
    if (this._address) leave(this._address);
    this._video.srcObject = null;
    this._connection = this._address = this._before = null;
  }

  async _look(connection) {
    const reports = [...(await connection.getStats()).values()];
    if (connection !== this._connection) return;
    const of = (kind) => reports.find((report) => report.type === "inbound-rtp" && report.kind === kind);
    const [video, audio] = [of("video"), of("audio")];
    if (!video || !audio) return;
    const pair = reports.find((report) => report.type === "candidate-pair" && report.nominated);
    const before = this._before ?? { video, audio };
    this._before = { video, audio };
    const change = (name) => (video[name] ?? 0) - (before.video[name] ?? 0);
    const seconds = (video.timestamp - before.video.timestamp) / 1000;
    this._changed("figures", {
      framesASecond: video.framesPerSecond ?? 0,
      decoded: video.framesDecoded,
      dropped: video.framesDropped ?? 0,
      freezes: video.freezeCount ?? 0,
      lost: (video.packetsLost ?? 0) + (audio.packetsLost ?? 0),
      kbps: seconds ? (8 * (change("bytesReceived") + audio.bytesReceived - before.audio.bytesReceived)) / 1000 / seconds : 0,
      bufferMs: change("jitterBufferEmittedCount") ? (1000 * change("jitterBufferDelay")) / change("jitterBufferEmittedCount") : 0,
      roundTripMs: 1000 * (pair?.currentRoundTripTime ?? 0),
      apartMs: apart(video, audio),
    });
  }
}

/** Milliseconds by which the picture is behind the sound; null where the browser does not tell. */
function apart(video, audio) {
  if (!video.estimatedPlayoutTimestamp || !audio.estimatedPlayoutTimestamp) return null;
  return audio.estimatedPlayoutTimestamp - audio.timestamp - (video.estimatedPlayoutTimestamp - video.timestamp);
}

/** Waits until the browser has its addresses. */
function gathered(connection) {
  if (connection.iceGatheringState === "complete") return null;
  return new Promise((done) => {
    const timer = setTimeout(done, GATHERING_MS);
    connection.onicegatheringstatechange = () => {
      if (connection.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      done();
    };
  });
}

/** Ends a viewer, also while the page goes away. */
function leave(address) {
  fetch(address, { method: "DELETE", keepalive: true }).catch(() => {});
}
