"""An avatar's pictures kept as a video: opened, indexed, decoded one after the other."""
