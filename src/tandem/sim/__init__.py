"""MuJoCo world of the mug task: physics, camera, scripted demonstrations, scenes. May import core, robots and execution."""
