"""Turns pictures that follow each other into a video stream."""
