"""Plays certified trajectories and nothing else: the executor, its 1 kHz process, backends. Imports neither torch nor ROS."""
