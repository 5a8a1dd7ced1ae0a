"""From result.json to what a person reads."""
