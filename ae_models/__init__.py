"""Autoencoders, their reconstruction error, and thresholds on it: the mathematics of reconwatch."""
