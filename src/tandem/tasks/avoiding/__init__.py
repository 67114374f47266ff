"""D3IL Avoiding (JM2D, Sec. 5.3): a rod held by the arm goes through six pillars, under constraints it has never seen."""
