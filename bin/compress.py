"""Compresses pictures and raw video frames to .kvc files.

  python bin/compress.py --model=mbt2018_mean --input=photo.png --output=photo.kvc
  python bin/compress.py --model=W --input=photos/ --output=compressed/
  python bin/compress.py --model=W --input=clip.y4m --frames=0:10 --output=compressed/

--input is a picture, a folder (with its subfolders) or a quoted glob; for several pictures --output
is a folder. Grey pictures stay grey; 16-bit and animated ones are refused. A .yuv or .y4m file of
4:2:0 frames, 8 or 10 bits, is coded as it is by models of luma_chroma420 and cross_component; each
frame becomes OUTPUT/NAME_00000.kvc and so on, by its number.
"""

import os

from absl import flags

from khuvcm_tf import program

MODEL = flags.DEFINE_string(
  "model",
  None,
  "A shipped model's name, a training workdir, a model's folder or an exported model.",
  required=True,
)
INPUT = flags.DEFINE_string(
  "input", None, "Picture, folder or glob, or .yuv or .y4m file to compress.", required=True
)
FRAMES = flags.DEFINE_string(
  "frames", None, "Of a .yuv or .y4m file: a:b, from frame a (from 0) to before b; default: all."
)
WIDTH = flags.DEFINE_integer("width", None, "Of a .yuv file's frames, in pixels.", lower_bound=1)
HEIGHT = flags.DEFINE_integer("height", None, "Of a .yuv file's frames, in pixels.", lower_bound=1)
BIT_DEPTH = flags.DEFINE_integer(
  "bit_depth", None, "Of a .yuv file: 8 (default), or 10 in words of 16 bits, low byte first."
)
OUTPUT = flags.DEFINE_string("output", None, "The .kvc file, or a folder.", required=True)
ALPHA = flags.DEFINE_string(
  "alpha",
  "refuse",
  "Transparent pictures: 'refuse' them, or compose them over 'white', 'black' or '#rrggbb'.",
)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that exist.")
PRECISION = flags.DEFINE_enum(
  "precision",
  "float32",
  ["float32", "float64"],
  "Of the transforms. float64 takes twice the time and gives the same bytes on every machine; "
  "files of either decode to the same symbols everywhere.",
)


def main():
  from khuvcm_tf import files  # TensorFlow takes seconds to import

  of_frames = files.is_raw(INPUT.value)
  for flag in (FRAMES, WIDTH, HEIGHT, BIT_DEPTH):
    if flag.value is not None and not of_frames:
      raise files.FilesError(
        f"found --{flag.name} for {INPUT.value}, expected it for .yuv and .y4m files; leave it out"
      )
  if of_frames and ALPHA.present:
    raise files.FilesError(
      f"found --alpha for {INPUT.value}, expected it for pictures; leave it out"
    )
  model = files.open_model(MODEL.value, PRECISION.value)
  if of_frames:
    jobs = files.compress_frames(
      model,
      INPUT.value,
      OUTPUT.value,
      FRAMES.value or ":",
      WIDTH.value,
      HEIGHT.value,
      BIT_DEPTH.value,
      OVERWRITE.value,
    )
    told = f"{len(jobs)} frame{'s' * (len(jobs) > 1)} of {INPUT.value}"
  else:
    jobs = files.compress(model, INPUT.value, OUTPUT.value, ALPHA.value, OVERWRITE.value)
    read = sum(os.path.getsize(job.source) for job in jobs)
    told = f"{len(jobs)} picture{'s' * (len(jobs) > 1)}: {read} bytes"
  written = sum(os.path.getsize(job.target) for job in jobs)
  print(f"{told} -> {written} bytes in {jobs[0].target if len(jobs) == 1 else OUTPUT.value}")


if __name__ == "__main__":
  program.run(main)
