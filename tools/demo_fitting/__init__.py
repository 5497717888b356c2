"""Fits the demo's audio encoder to synthetic speech. For developers: the product ships the result, an ONNX file.

`python -m tools.demo_fitting.fit` speaks about twenty minutes with the Debian packages espeak-ng and flite, which know the
time of each sound, and learns the mouth's movements from the spectrum. It needs librosa and takes about a minute.
"""
