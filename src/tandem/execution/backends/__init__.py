"""What the fast loop drives: one module a kind of arm. The MuJoCo one lies in :mod:`tandem.sim.backend`."""
