"""What evaluations of any kind share: rows, resumable points, provenance, curves, reports."""
