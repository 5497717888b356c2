"""The CPU half: backgrounds, paste, JPEG splicing, and the gRPC face that callers speak to."""
