"""Numbers of the study that feature coding repeats, as it prints them.

Its detector is Mask R-CNN of detectron2 on OpenImages V6 validation; 256 channels in 4 planes.
"""

from __future__ import annotations

NAME = "study (Mask R-CNN, OpenImages V6)"
# lambda -> MSE of features, bits per pixel, mAP at an IoU of 0.5.
CURVE = {
  5e-6: (1.836116, 0.206, 0.091078),
  7e-6: (1.356125, 0.25, 0.16333),
  8e-6: (1.130316, 0.272, 0.240556),
  9e-6: (1.00531, 0.356, 0.272489),
  1e-5: (0.994231, 0.377, 0.269231),
  1e-4: (0.25708, 0.928, 0.276794),
  1e-3: (0.134617, 2.84, 0.280385),
  1e-2: (0.112621, 4.008, 0.287582),
}
