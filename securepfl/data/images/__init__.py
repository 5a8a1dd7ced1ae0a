"""Images by hospital: folders read, checked against their declaration, and scaled by it."""
