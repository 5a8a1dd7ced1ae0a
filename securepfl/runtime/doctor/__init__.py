"""What `securepfl doctor` looks at, a file a subject. Each check gives findings, and raises nothing."""
