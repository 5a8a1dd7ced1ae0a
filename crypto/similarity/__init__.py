"""Inner products of two hospitals' vectors that only the hospital who asks can read."""
