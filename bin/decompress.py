"""Decompresses .kvc files to images.

  python bin/decompress.py --input=photo.kvc --output=photo.png
  python bin/decompress.py --model=W --input=compressed/ --output=photos/
  python bin/decompress.py --model=W --input='compressed/clip_*.kvc' --output=clip.y4m
  python bin/decompress.py --input=compressed/ --output=photos/ --cluster=local

A file of a shipped model carries its fingerprint and needs no --model; others need it. --input is
a file, a folder (with its subfolders), a quoted glob or TFRecord files; for several files --output
is a folder of PNGs. Raw frames become one .yuv or .y4m file, in the order of their names.
"""

from khuvcm_tf import batch_options, cluster, options, program

options.define_flags(batch_options.DecompressOptions)
options.define_flags(cluster.ClusterOptions)


def main():
  given = options.from_flags(batch_options.DecompressOptions)
  where = options.from_flags(cluster.ClusterOptions)
  from khuvcm_tf import batch_coding  # TensorFlow takes seconds to import

  with cluster.start(where) as executor:
    print(batch_coding.run_decompress(given, executor))


if __name__ == "__main__":
  program.run(main)
