"""Who a party is, the keys that hospitals share, and how both are made, kept and rotated."""
