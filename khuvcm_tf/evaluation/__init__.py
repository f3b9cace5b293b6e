"""What an image codec costs and what it gives: metrics, anchors, rate-distortion, benchmarks."""
