"""Data of a task: sources, readers of files, tokens, batches by length, and the LightningDataModule."""
