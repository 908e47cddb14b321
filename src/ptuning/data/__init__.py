"""Sources, tokenizing, batching by length, and the LightningDataModule."""
