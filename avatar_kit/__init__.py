"""Avatars: their format on disk, geometry and timeline, and how they are read and written. Imports no other package of ours."""
