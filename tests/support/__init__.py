"""Code that several test files use, by topic: runs, families, commands, sweeps, records, callbacks, W&B's files."""
