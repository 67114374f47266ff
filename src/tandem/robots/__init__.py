"""Arms: kinematics, limits, enclosing collision spheres, batched forward and inverse kinematics."""
