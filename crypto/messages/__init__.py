"""The signed and sealed envelope in which every message travels."""
