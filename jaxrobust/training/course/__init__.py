"""The host side of training: run directories, checkpoints, epochs, signals."""
