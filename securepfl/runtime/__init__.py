"""Who moves the bytes, and the folder in which a party keeps its state."""
