"""What scoring costs, as a share of the training step."""
