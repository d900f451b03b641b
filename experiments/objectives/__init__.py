"""Objectives of training beside each other."""
