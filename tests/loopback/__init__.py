"""Hospitals and a hub as real processes on one machine: their folders and keys, their processes, what came of a run."""
