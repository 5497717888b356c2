"""Both halves in one process: the inference service's network and the compositing service's pictures, without the wire.

The only package that imports both services.
"""
