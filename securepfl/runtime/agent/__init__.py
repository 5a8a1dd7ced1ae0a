"""A hospital's own process, behind a Unix socket: what holds keys, data and ledger."""
