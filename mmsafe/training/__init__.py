"""The training loop: module, data and trainer, checkpoints and strategies."""
