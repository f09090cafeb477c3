"""Learning audio representations from mixtures, with PyTorch Lightning."""

__version__ = "0.1.0"
