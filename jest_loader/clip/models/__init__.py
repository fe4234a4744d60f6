"""The models that are trained, and what the trainer needs of them."""
