"""What the command line's commands do: run, route. They compose the SDK; nothing below imports them."""
