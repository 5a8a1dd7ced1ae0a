"""What is personal, whom it is drawn to, and the average over rounds."""
