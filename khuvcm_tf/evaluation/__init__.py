"""What a codec costs and what it gives: measures, anchors, rate-distortion."""
