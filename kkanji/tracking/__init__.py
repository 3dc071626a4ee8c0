"""Where a run is followed: TensorBoard, and experiment trackers through Accelerate's classes. Nothing here trains."""
