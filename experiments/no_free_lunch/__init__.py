"""NF: no free lunch, accuracy against robustness."""
