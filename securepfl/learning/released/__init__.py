"""Metrics that may leave: histograms of scores by outcome, and what can be read off them through known noise."""
