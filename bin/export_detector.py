"""Exports a detector as a SavedModel that needs no Python code of this package.

  python bin/export_detector.py --detector=D --output=exported

Its signatures are `detect` (images -> detections), `extract_features` (images -> P2 to P6),
`from_features` (P2 to P6 -> detections) and `paste_masks`; detection/saved_model.py says what they
take and give. The file export.json in the folder names the categories and the size for images.
"""

from detection.options import ExportDetectorOptions, config_changes
from khuvcm_tf import options, program

options.define_flags(ExportDetectorOptions)


def main():
  given = options.from_flags(ExportDetectorOptions)
  from detection import predictor, saved_model  # TensorFlow takes seconds to import

  saved_model.export(predictor.load(given.detector, **config_changes(given)), given.output)
  print(f"{given.detector} exported to {given.output}")


if __name__ == "__main__":
  program.run(main)
