"""Which coordinates of an update are sent, and how the rest is kept small."""
