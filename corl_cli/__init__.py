"""corl: co-reinforcement learning for unified multimodal models (CoRL, arXiv 2505.17534)."""

__version__ = "0.1.0"
