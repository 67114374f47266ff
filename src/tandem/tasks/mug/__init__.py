"""Picking up a mug among obstacles that the policy has never seen (JM2D, Appx. A.1)."""
