"""Reachability filter: limits and occupancy in continuous time, backup manoeuvres, the online monitor. No torch, no ROS."""

from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds, load_bounds
from tandem.safety.certify import (
    BatchVerdict,
    GridVerdict,
    certify,
    certify_grid,
    certify_one,
    certify_pairs,
    compile_all,
    occupancy,
)
from tandem.safety.filter import SafetyFilter
from tandem.safety.geometry import PackedScene, Polytope, pack_scene
from tandem.safety.guide import GuideSearch
from tandem.safety.quintic import QuinticVerdict, certify_quintic
from tandem.safety.rtd import GoalReacher, RtdConfig, RtdPlan, RtdPlanner
from tandem.safety.search import Backup, find_backup
from tandem.safety.stop import stop_trajectory

__all__ = [
    "Backup", "BackupFamily", "BatchVerdict", "Bounds", "GoalReacher", "GridVerdict", "GuideSearch", "PackedScene", "Polytope",
    "QuinticVerdict", "RtdConfig", "RtdPlan", "RtdPlanner", "SafetyFilter", "certify", "certify_grid", "certify_one",
    "certify_pairs", "certify_quintic", "compile_all", "find_backup", "load_bounds", "occupancy", "pack_scene",
    "stop_trajectory",
]
