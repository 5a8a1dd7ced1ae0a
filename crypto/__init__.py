"""Exact encrypted sums, encrypted inner products, keys and signed messages. Knows no torch."""
