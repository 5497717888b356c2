"""Converts trained checkpoints of the family's two networks, as PyTorch saves them, to ONNX files that can be served.

A checkpoint is a pickle, and a pickle is a program: only PyTorch's restricted reader reads its weights. PyTorch is needed for
converting alone, so it comes with the extra `import` and is imported when it is used.
"""

from avatar_tools.checkpoints.convert import Converted, TorchMissing, convert_checkpoint
from avatar_tools.checkpoints.files import checkpoint_kind
from avatar_tools.checkpoints.kinds import Kind

__all__ = ["Converted", "Kind", "TorchMissing", "checkpoint_kind", "convert_checkpoint"]
