"""Differential privacy: training, accounting and the ledger. Knows no encryption."""
