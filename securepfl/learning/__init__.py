"""The methods: plain torch, no encryption, no budget."""
