"""The ways in from a command line."""
