"""Encodes only the changed part of a picture: new segments are spliced into stored files with restart markers.

libjpeg starts the DC prediction anew at each restart marker, so the segments between markers do not depend on one another.
"""
