"""Attacks on our own training, and the statistics that compare what leaks with the claim."""
