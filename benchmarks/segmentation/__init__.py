"""Studies of segmentation by hospital: inside (who takes part), outside (who never did), and their pages."""
