"""Shared memory with room for camera images.

Fast DDS' own segment holds 512 KB: an image of 0.9 MB does not go through it, is cut into UDP packets, and without a reliable
reader arrives as a whole now and then, or never.
"""

from __future__ import annotations

import os

from tandem.core.paths import config_file

GIVEN = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")


def prepare() -> None:
    """Name Tandem's profile to Fast DDS, unless the environment says otherwise. Call before ``rclpy.init``."""
    if not any(os.environ.get(name) for name in GIVEN):
        os.environ[GIVEN[0]] = str(config_file("dds", "fastdds.xml"))
