"""The coordinator: a state machine over bytes that adds what it cannot read."""
