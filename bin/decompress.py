"""Decompresses .kvc files to pictures.

  python bin/decompress.py --input=photo.kvc --output=photo.png
  python bin/decompress.py --model=W --input=compressed/ --output=photos/
  python bin/decompress.py --model=W --input='compressed/clip_*.kvc' --output=clip.y4m

A file that a shipped model wrote finds its model by itself; others need --model. --input is a file,
a folder (with its subfolders) or a quoted glob; for several files --output is a folder of PNGs. Raw
frames become one .yuv or .y4m file, in the order of their names.
"""

from __future__ import annotations

import contextlib
import fractions
import functools

from absl import flags

from khuvcm_tf import errors, program

MODEL = flags.DEFINE_string(
  "model",
  None,
  "The model that wrote the files: a training workdir, a model's folder, an exported "
  "model or a shipped model's name. By default the shipped one that the file names.",
)
INPUT = flags.DEFINE_string(
  "input", None, ".kvc file, folder or glob to decompress.", required=True
)
OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "The picture (.png, .tif, .bmp, .ppm), the file of raw frames (.yuv, .y4m), or a folder.",
  required=True,
)
LUMA_ONLY = flags.DEFINE_bool(
  "luma_only", False, "Decode a grey preview from luma alone, of files of cross_component."
)
FRAME_RATE = flags.DEFINE_string(
  "frame_rate", None, "For a .y4m header, as in 25 or 30000/1001; a .kvc file does not keep it."
)
SITING = flags.DEFINE_enum(
  "siting", None, ["left", "centre"], "Of chroma, for a .y4m header of 8 bits; default: not told."
)
FULL_RANGE = flags.DEFINE_bool(
  "full_range", None, "For a .y4m header: whether black is 0, not 16; default: not told."
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that exist.")
PRECISION = flags.DEFINE_enum(
  "precision",
  "float32",
  ["float32", "float64"],
  "Of the synthesis. float64 takes twice the time and gives the same pixels on every machine; with "
  "float32 a few pixels in a million differ by one level between machines.",
)
MAX_PIXELS = flags.DEFINE_integer(
  "max_pixels", 2**27, "Refuse files of larger pictures.", lower_bound=1
)
ALLOW_OTHER_SYNTHESIS = flags.DEFINE_bool(
  "allow_other_synthesis",
  False,
  "Decode files of a model with the same entropy coder but another synthesis, to other pixels.",
)


def frame_rate() -> fractions.Fraction | None:
  """Returns --frame_rate as a number."""
  if FRAME_RATE.value is None:
    return None
  rate = None
  with contextlib.suppress(ValueError, ZeroDivisionError):
    rate = fractions.Fraction(FRAME_RATE.value)
  if rate is None or rate <= 0:
    raise errors.Error(
      f"--frame_rate is {FRAME_RATE.value!r}, expected frames per second as in 25 or 30000/1001"
    )
  return rate


def main():
  from khuvcm_tf import files  # TensorFlow takes seconds to import

  for flag in (FRAME_RATE, SITING, FULL_RANGE):
    if flag.value is not None and not OUTPUT.value.lower().endswith(".y4m"):
      raise errors.Error(
        f"found --{flag.name} for {OUTPUT.value}, expected it for a .y4m file; leave it out"
      )
  opened = functools.lru_cache(maxsize=None)(lambda name: files.open_model(name, PRECISION.value))
  arguments = {
    "models": lambda data: opened(MODEL.value or files.model_of(data)),
    "pattern": INPUT.value,
    "output": OUTPUT.value,
    "overwrite": OVERWRITE.value,
    "max_pixels": MAX_PIXELS.value,
    "allow_other_synthesis": ALLOW_OTHER_SYNTHESIS.value,
    "luma_only": LUMA_ONLY.value,
  }
  target = OUTPUT.value
  if files.is_raw(target):
    y4m = {"rate": frame_rate(), "siting": SITING.value, "full_range": FULL_RANGE.value}
    done = files.decompress_frames(**arguments, y4m=y4m)
  else:
    done = files.decompress(**arguments)
    target = done[0].target if len(done) == 1 else target
  print(f"{len(done)} file{'s' * (len(done) > 1)} decompressed to {target}")


if __name__ == "__main__":
  program.run(main)
