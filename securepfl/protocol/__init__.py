"""What client and coordinator have in common: messages, sums on the wire, the order of a round."""
