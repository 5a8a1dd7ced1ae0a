"""The settings that all parties share: read, checked, and fixed to hospitals and a model."""
