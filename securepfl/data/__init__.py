"""Tables by site, and the data sets of the demonstrations."""
