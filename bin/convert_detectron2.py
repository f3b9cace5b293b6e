"""Converts a detector that detectron2 trained into one of this project.

  python bin/convert_detectron2.py --checkpoint=model_final_280758.pkl --output=detector/
  python bin/detect.py --detector=detector/ --input=photo.png --output=detections/

Nothing that a checkpoint contains is run, and neither PyTorch nor detectron2 is needed. Every
weight has to be used once: a checkpoint that lacks some, or has others, is refused by their names.
"""

from absl import flags

from khuvcm_tf import program

CHECKPOINT = flags.DEFINE_string(
  "checkpoint",
  None,
  "File of weights: model_final_*.pkl of detectron2's model zoo, or .pth of its training.",
  required=True,
)
CONFIG = flags.DEFINE_string(
  "config",
  None,
  "What the checkpoint holds: faster_rcnn_ or mask_rcnn_, then R_50, R_101 or X_101_32x8d, then "
  "_FPN_3x; default: recognized by its weights.",
)
OUTPUT = flags.DEFINE_string(
  "output", None, "Folder of the detector; new, empty or a detector's.", required=True
)
WEIGHTS_DTYPE = flags.DEFINE_enum(
  "weights_dtype", "float32", ["float32", "float16"], "In which the weights are stored."
)


def main():
  from detection.conversion import detectron2  # TensorFlow takes seconds to import

  converted = detectron2.convert_file(
    CHECKPOINT.value, CONFIG.value, OUTPUT.value, WEIGHTS_DTYPE.value
  )
  print(
    f"{OUTPUT.value}: {converted.config}, {converted.num_parameters:,} parameters; next:\n"
    f"  python bin/detect.py --detector={OUTPUT.value} --input=photo.png --output=detections/"
  )


if __name__ == "__main__":
  program.run(main)
