"""The command line: a module per command; puts the parts together."""
