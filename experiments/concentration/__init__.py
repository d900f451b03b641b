"""Empirical concentration of image data: Mahloujifar et al., 2019, arXiv:1905.12202."""
