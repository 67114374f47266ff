#!/usr/bin/env bash
# ROS and the installed package, then the command.
set -e
# shellcheck disable=SC1091
source /opt/ros/jazzy/setup.bash
# shellcheck disable=SC1091
source /opt/install/setup.bash
exec "$@"
