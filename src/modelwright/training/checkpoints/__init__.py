"""Checkpoints: folders of safetensors and JSON with a manifest of hashes, complete or not there at all."""

from modelwright.runs.weights import best_checkpoint, find_damage, list_checkpoints
from modelwright.training.checkpoints.loading import find_newest, load, load_newest, none_whole, read_tensors
from modelwright.training.checkpoints.saver import Saver, save

__all__ = [
    "Saver",
    "best_checkpoint",
    "find_damage",
    "find_newest",
    "list_checkpoints",
    "load",
    "load_newest",
    "none_whole",
    "read_tensors",
    "save",
]
