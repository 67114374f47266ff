"""Stand-in for ROS 2's ``launch_ros``: the subset that Tandem's launch files use."""

from launch._core import refuse

__getattr__ = refuse("launch_ros")
