"""The family's two networks as ONNX graphs, built from weights in the published layout.

`unet.unet_graph` and `audio_encoder.encoder_graph` take any mapping in the layout of `architecture`: random weights for
benchmarks, a trained checkpoint when an avatar is imported. The graphs are plain: the inference service rewrites
them for the processor that they run on.
"""
