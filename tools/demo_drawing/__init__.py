"""Makes the demo's person: the layers that her frames are made of, and the network that paints her mouth.

For developers: the product ships the results, PNG files and an ONNX file, which `python -m tools.demo_drawing` writes anew. Tests
fail when they are not what this program makes.
"""
