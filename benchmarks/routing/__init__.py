"""Where routing should win: worlds whose shift is known, each with an unseen hospital, against every baseline."""
