"""Exact sums of integer vectors under encryption: packing, tags, the scheme, the wire format."""
