"""The family's two networks, and models that are built from scratch.

`unet` and `audio_encoder` describe the networks once; `OnnxLayers`, `TorchLayers` and `WeightShapes` read a description. The
graphs take any weights in the published layout: random ones for benchmarks, a trained checkpoint when an avatar is imported. They
are plain: the inference service rewrites them for its processor.
"""
