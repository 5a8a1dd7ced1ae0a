"""A hospital: a state machine over bytes, and what it does in a round."""
