"""Trackers of runs: W&B, TensorBoard, MLflow and other loggers of Lightning."""
