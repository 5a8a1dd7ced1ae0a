"""Public starts: networks trained before any patient, on procedural images alone, or taken from a MONAI bundle."""

from securepfl.tasks.starts.start import Start, fill, read_start

__all__ = ["Start", "fill", "read_start"]
