"""Learning: trajectories to samples to batches to updates; checkpoints. Needs the extra ``train``."""
