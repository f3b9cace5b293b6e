"""Evaluates a detector on a data set: COCO's numbers for boxes and masks.

  python bin/evaluate_detector.py --detector=D --annotations=A.json --images=photos --output=results
  python bin/evaluate_detector.py --detector=D --dataset=coco/2017 --output=results

Prints a table and writes results.json and detections.json into --output. A run that was ended goes
on with the images that are missing when it is started again. An image that cannot be read is named
and left out; the others are evaluated, and the exit code is 1.
"""

from detection.coco.options import EvaluateDetectorOptions
from khuvcm_tf import cluster, options, program

options.define_flags(EvaluateDetectorOptions)
options.define_flags(cluster.ClusterOptions)


def main():
  from detection import predictor  # TensorFlow takes seconds to import
  from detection.coco import run, sources

  given = options.from_flags(EvaluateDetectorOptions)
  dataset = sources.load(given)
  detect = predictor.load(given.detector)
  with cluster.start(options.from_flags(cluster.ClusterOptions)) as executor:
    result = run.run_evaluation(
      detect,
      dataset,
      given.output,
      categories=detect.categories,
      fingerprint=detect.fingerprint,
      about={"detector": given.detector},
      supercategories=given.supercategories,
      executor=executor,
    )
  print(run.table(result))
  print(f"written to {given.output}/results.json and detections.json")
  run.check_complete(result)


if __name__ == "__main__":
  program.run(main)
