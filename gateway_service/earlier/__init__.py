"""The WebSocket messages of the earlier servers, for the pages and programs that still send them."""
