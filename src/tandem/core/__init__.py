"""Types shared by every part of Tandem. Imports nothing but NumPy, SciPy and PyYAML."""
