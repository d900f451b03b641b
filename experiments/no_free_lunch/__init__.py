"""Accuracy against robustness: Tsipras et al., 2018, arXiv:1805.12152v1."""
