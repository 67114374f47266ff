"""Reachability filter: limits and occupancy in continuous time, backup manoeuvres, the online monitor. No torch, no ROS."""

from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds, load_bounds
from tandem.safety.certify import BatchVerdict, GridVerdict, certify, certify_grid, certify_one, certify_pairs
from tandem.safety.geometry import PackedScene, Polytope, pack_scene

__all__ = [
    "BackupFamily", "BatchVerdict", "Bounds", "GridVerdict", "PackedScene", "Polytope",
    "certify", "certify_grid", "certify_one", "certify_pairs", "load_bounds", "pack_scene",
]
