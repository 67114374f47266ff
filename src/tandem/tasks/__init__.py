"""The problems Tandem is measured on, one folder a problem."""
