"""The gateway: live sessions for browsers, over WebSocket and HTTP. It knows only the client and the kit of services."""
