"""The bundled CLIP trainer: the reference consumer of ``JestDataset``."""
