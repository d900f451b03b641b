"""SN: robustness and the distribution of the inputs."""
