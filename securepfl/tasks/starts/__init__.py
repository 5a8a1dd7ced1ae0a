"""Public starts: networks trained before any patient, on procedural images alone, or taken from a MONAI bundle."""
