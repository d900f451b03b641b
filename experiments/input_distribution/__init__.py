"""Robustness and the distribution of inputs: Ding et al., 2019, arXiv:1902.08336."""
