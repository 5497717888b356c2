"""Finds 110 landmarks in pictures with the user's own two models: a face detector and a landmarker, both ONNX."""

from avatar_tools.detection.find import find_landmarks, model_problems

__all__ = ["find_landmarks", "model_problems"]
