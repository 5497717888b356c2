"""Draws the person of the demo, layer by layer. For developers: the product ships the layers as PNG files.

`python -m tools.demo_drawing.layers` writes them anew. A test fails when they are not what this program draws.
"""
