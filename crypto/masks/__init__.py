"""Masks that cancel in a sum, so that a key alone opens no single update."""
