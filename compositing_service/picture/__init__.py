"""One picture: the mouth pasted in, and the JPEG around it."""
