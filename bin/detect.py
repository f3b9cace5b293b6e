"""Detects objects in photos and draws them.

  python bin/detect.py --detector=D --input=photo.jpg --output=detected
  python bin/detect.py --detector=D --input=photos/ --output=detected --min_score=0.3
  python bin/detect.py --detector=D --features=features/ --input=photos/ --output=detected

--input is a photo, a folder (with its subfolders) or a quoted glob. Into --output go the photos
with boxes, masks and labels drawn on them, and detections.json: of each photo its name and size,
and of each detection its category, score, bbox (x, y, width, height in the photo's pixels) and,
where the detector has masks, its mask as COCO's run lengths.

--features goes on from what bin/extract_features.py wrote, to the same detections. As features hold
no pixels, nothing is drawn then unless --input gives the photos too.
"""

from detection.options import DetectOptions
from khuvcm_tf import options, program

options.define_flags(DetectOptions)


def main():
  given = options.from_flags(DetectOptions)
  from detection import batch_detection  # TensorFlow takes seconds to import

  print(batch_detection.run_detect(given))


if __name__ == "__main__":
  program.run(main)
