"""Tandem: run a learned policy on a Franka arm, and never move on anything but a certified trajectory."""

__version__ = "0.1.0"
