"""Numbers of the study that these experiments repeat, in percent, as it prints them.

Its detector is detectron2's Faster R-CNN X101-FPN on COCO val 2017, images of 800 pixels.
"""

from __future__ import annotations

NAME = "study (X101-FPN, COCO val 2017)"

# Levels that are damaged at maximum -> AP of small objects.
COMBINATIONS = {"none": 27.204, "p2": 24.051, "p3": 23.85, "p2+p4": 23.726, "p3+p4": 18.518}

_KEPT = "p2=p3:up, p4={}, p6=p5:down"

# The rows of its reconstruction: name -> (rule, AP, AP50, APs, APm, APl).
RECONSTRUCTION = {
  "none": ("none", 43.047, 63.66, 27.203, 46.094, 54.895),
  "P2, P4, P6 degraded": (
    "p2=p2:degrade64, p4=p4:degrade16, p6=p6:degrade4",
    *(40.49, 59.327, 23.726, 44.382, 54.582),
  ),
  "P4 from P3": (_KEPT.format("p3:down"), 41.504, 60.903, 24.652, 45.702, 55.017),
  "P4 from P5": (_KEPT.format("p5:up"), 40.715, 59.834, 24.498, 43.564, 55.07),
  "Mix-1": (_KEPT.format("0.25*p3:down+0.75*p5:up"), 41.561, 60.952, 24.591, 45.899, 54.97),
  "Mix-2": (_KEPT.format("0.5*p3:down+0.5*p5:up"), 41.62, 61.015, 24.626, 46.018, 54.978),
  "Mix-3": (_KEPT.format("0.75*p3:down+0.25*p5:up"), 41.601, 60.96, 24.678, 45.913, 54.976),
}
RECONSTRUCTION_KEYS = ("ap", "ap50", "aps", "apm", "apl")

# Of the data: (1 + 1/4 + 1/16 + 1/64 + 1/256) / (1/4 + 1/64) = 5.01.
FACTOR = 5.02

# Which levels the study says objects of a size depend on.
FINDINGS = {"aps": ("p2", "p3"), "apm": ("p4", "p5"), "apl": ("p5", "p6")}
