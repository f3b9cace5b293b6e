"""Converts a detector that detectron2 trained into one of this project.

  python bin/convert_detectron2.py --checkpoint=model_final_280758.pkl --output=detector/
  python bin/detect.py --detector=detector/ --input=photo.png --output=detections/

Nothing that a checkpoint contains is run, and neither PyTorch nor detectron2 is needed. Every
weight has to be used once: a checkpoint that lacks some, or has others, is refused by their names.
"""

from detection.conversion.options import ConvertDetectorOptions
from khuvcm_tf import options, program

options.define_flags(ConvertDetectorOptions)


def main():
  given = options.from_flags(ConvertDetectorOptions)
  from detection.conversion import detectron2  # TensorFlow takes seconds to import

  converted = detectron2.convert_file(
    given.checkpoint, given.config, given.output, given.weights_dtype
  )
  print(
    f"{given.output}: {converted.config}, {converted.num_parameters:,} parameters; next:\n"
    f"  python bin/detect.py --detector={given.output} --input=photo.png --output=detections/"
  )


if __name__ == "__main__":
  program.run(main)
