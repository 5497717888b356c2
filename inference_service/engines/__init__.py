"""Sessions of ONNX Runtime on the devices there are, and the crops that they read."""
