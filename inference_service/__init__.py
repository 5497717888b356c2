"""The GPU half: sound and an avatar's frames in, mouth regions out, over gRPC."""
