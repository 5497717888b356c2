"""The CPU half: backgrounds, paste, JPEG splicing, and the gRPC service that callers use."""
