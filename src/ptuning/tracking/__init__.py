"""What trackers hear of a run: W&B, TensorBoard, MLflow."""
