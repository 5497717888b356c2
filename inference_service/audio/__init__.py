"""Turns sound into the feature windows that the networks read.

`pcm` decodes the bytes of a request, `mel` computes the reference's spectrum, `line` places the sound in endless silence and says
which columns make a row, `reference_edges` does so for the ends of a whole clip, `encoder` runs the network, `windows` makes
windows of rows, and `features` is the module that the service calls.
"""
