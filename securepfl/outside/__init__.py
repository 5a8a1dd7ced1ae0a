"""Hospitals that never took part: released experts, mixed by their own unlabelled rows."""
