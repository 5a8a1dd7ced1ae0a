# What the scripts beside this file agree on. Set it once, and send it to all parties with federation.toml.

# Where the hospitals reach the coordinator's machine. The port is open to them alone.
HUB=${HUB:-https://hub.example.org:8443}

# The hospital that makes the federation's key, and calls all others to compare fingerprints.
[ -n "${STEWARD:-}" ] || STEWARD=%%{steward}

# A folder that all parties read and write, or copy to each other. It holds no secret, and needs no trust.
EXCHANGE=${EXCHANGE:-exchange}

# This machine's own: its keys, its ledger's run, its model. Nobody else reads it.
PRIVATE=${PRIVATE:-private}

# This hospital's patients.
DATA=${DATA:-data}
