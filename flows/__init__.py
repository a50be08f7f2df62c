"""Flows that train, calibrate and score, and everything that touches the outside world."""
