"""LP: adversarial training with large perturbations."""
