"""Fits the demo's audio encoder to synthetic speech. For developers: the product ships the result, an ONNX file.

`python -m tools.demo_fitting.fit` speaks about twenty minutes with the Debian packages espeak-ng and flite, which know when
they say which sound, and learns from the spectrum what the mouth does then. It needs librosa and takes about a minute.
"""
