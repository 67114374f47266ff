"""Stand-in for ROS 2's ``launch``: the subset that Tandem's launch files use."""

from ._core import Action, LaunchContext, LaunchDescription, LaunchDescriptionEntity, Substitution, refuse
from .launch_description_sources import LaunchDescriptionSource

__all__ = ["Action", "LaunchContext", "LaunchDescription", "LaunchDescriptionEntity", "LaunchDescriptionSource", "Substitution"]
__getattr__ = refuse("launch")
