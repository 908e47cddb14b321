"""The LightningModule, backbones, and the delta: what a run changed and nothing else."""
