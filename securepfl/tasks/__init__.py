"""What a model is for: its legal labels, loss, predictions and metrics."""
