"""Experiments: the tables and figures of five papers, as programs."""
