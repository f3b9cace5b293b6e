"""Prints what .kvc files hold: image, model, sizes of the parts. Nothing is decoded.

python bin/probe.py photo.kvc
python bin/probe.py --json *.kvc
"""

import json

from absl import flags

from khuvcm_tf import probe, program

JSON = flags.DEFINE_bool("json", False, "Print a JSON array with an object for each file.")


def main(files):
  descriptions, failures = probe.describe_all(files)
  if JSON.value:
    print(json.dumps(descriptions, indent=2))
  elif descriptions:
    print("\n".join(map(probe.text, descriptions)))
  probe.check_complete(files, failures)


if __name__ == "__main__":
  program.run_on_files(main)
