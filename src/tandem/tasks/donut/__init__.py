"""The donut of JM2D (Figs. 2, 5, A.4): start-goal pairs x in R^4 drawn from an annulus, a path's waypoint k in R^2."""
