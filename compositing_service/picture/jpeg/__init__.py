"""Encoding that costs what has changed: pictures with restart markers, and new segments spliced into stored ones.

libjpeg starts the DC prediction anew at each restart marker, so the segments between markers do not depend on one another.
"""
