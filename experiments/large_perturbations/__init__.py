"""Training at large perturbations: Shaeiri et al., 2020, arXiv:2003.13370."""
