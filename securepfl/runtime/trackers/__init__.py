"""Trackers that come with securepfl, one a file, loaded when named; others are plug-ins (plugins.py)."""
