"""WHEP: browsers and players watch an avatar over WebRTC. It needs the extra `webrtc`."""
