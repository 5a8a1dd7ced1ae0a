"""Training that spends a budget: gradients per unit, the clip, the noise."""
