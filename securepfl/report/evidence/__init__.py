"""What a privacy officer files of a run: its pages, its archive, and the script by which a stranger checks it."""
