"""What was released, and what it costs: events, epsilons, noise multipliers."""
