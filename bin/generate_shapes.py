"""Draws the data set `shapes` and writes it as files in COCO's format.

  python bin/generate_shapes.py --output=shapes --split=train --count=4000
  python bin/generate_shapes.py --output=shapes --split=validation --count=500

Into --output go a folder of PNG images and a JSON file of annotations with boxes and masks, both
with the split's name. Image k of a split is always the same one for the same seed. Programs that
take --dataset=shapes read the same images and need no such files.
"""

from detection.coco.options import GenerateShapesOptions
from khuvcm_tf import options, program

options.define_flags(GenerateShapesOptions)


def main():
  given = options.from_flags(GenerateShapesOptions)
  from detection.coco import shape_dataset

  print(shape_dataset.generate(given))


if __name__ == "__main__":
  program.run(main)
