"""What the backend for a real Franka arm is made of: settings, limits, faults in words, smooth returns, the gripper's process."""
