"""Thin ROS 2 lifecycle nodes around Tandem's libraries; the only package that imports rclpy."""
