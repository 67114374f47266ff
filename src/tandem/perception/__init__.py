"""From camera images to object poses: ArUco detection, pose with covariance, tracking with staleness. No ROS, no torch."""

from tandem.perception.detector import Detection, DetectorConfig, MarkerDetector, Rejected
from tandem.perception.estimator import Estimate, EstimateReason, EstimatorConfig, MarkerPoseEstimator
from tandem.perception.tracker import PoseTracker, TrackerConfig, Update

__all__ = [
    "Detection", "DetectorConfig", "Estimate", "EstimateReason", "EstimatorConfig", "MarkerDetector", "MarkerPoseEstimator",
    "PoseTracker", "Rejected", "TrackerConfig", "Update",
]
