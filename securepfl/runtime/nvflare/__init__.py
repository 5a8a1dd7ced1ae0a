"""NVIDIA FLARE: its jobs carry our bytes."""
