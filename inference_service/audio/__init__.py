"""Sound to the feature windows that the networks read.

`pcm` takes the bytes of a request apart, `mel` holds the reference's spectrum, `line` places the sound in endless silence, `rows`
and `reference_edges` say which columns make a row and which rows make a frame, `encoder` runs the network, `windows` cuts
rows into frames, and `features` is what the service calls.
"""
