"""Makes the demo's person: the frames of her clip, and the network that paints her mouth.

For developers: the product ships the results, a video, rectangles and an ONNX file, which `python -m tools.demo_drawing` writes
anew. Tests fail when they are not what this program makes.
"""
