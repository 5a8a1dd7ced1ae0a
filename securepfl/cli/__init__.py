"""The command line: one file a command. They compose the SDK; nothing below imports them."""
