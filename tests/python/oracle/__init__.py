"""Comparisons with the reference implementation (transformers, float32, eager attention) on random tiny checkpoints."""

import sys

# The reference needs no torchvision for what is compared here, and one built for another torch breaks its import.
sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]
