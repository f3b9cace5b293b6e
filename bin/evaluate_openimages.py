"""Compares detections with the ground truth of Open Images, by its rules: mAP at an IoU of 0.5.

  python bin/evaluate_openimages.py --boxes=validation-annotations-bbox.csv \\
    --labels=validation-annotations-human-imagelabels.csv --detections=found.csv \\
    --hierarchy=bbox_labels_600_hierarchy.json

Groups count as one object, and only classes that were verified in an image count there. Detections
are a CSV file with the columns ImageID, LabelName, Score, XMin, XMax, YMin, YMax.
"""

from detection.openimages.options import OpenImagesOptions, run
from khuvcm_tf import options, program

options.define_flags(OpenImagesOptions)


def main():
  print(run(options.from_flags(OpenImagesOptions)))


if __name__ == "__main__":
  program.run(main)
