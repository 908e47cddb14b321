"""Sources, tokenising, batching by length, and the LightningDataModule."""
