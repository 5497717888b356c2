"""The addresses of WHEP, and the types of what is sent there."""

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"
OF_AVATAR, OF_SESSION = "/api/avatars/{avatar}/whep", "/api/sessions/{secret}/whep"
VIEWER = "/api/whep/{secret}"
