"""Decompresses .kvc files to images.

  python bin/decompress.py --input=photo.kvc --output=photo.png
  python bin/decompress.py --model=W --input=compressed/ --output=photos/
  python bin/decompress.py --model=W --input='compressed/clip_*.kvc' --output=clip.y4m

A file of a shipped model carries its fingerprint and needs no --model; others need it. --input is
a file, a folder (with its subfolders) or a quoted glob; for several files --output is a folder of
PNGs. Raw frames become one .yuv or .y4m file, in the order of their names.
"""

from khuvcm_tf import batch_options, options, program

options.define_flags(batch_options.DecompressOptions)


def main():
  given = options.from_flags(batch_options.DecompressOptions)
  from khuvcm_tf import batch_coding  # TensorFlow takes seconds to import

  print(batch_coding.run_decompress(given))


if __name__ == "__main__":
  program.run(main)
