"""Compresses images and raw video frames to .kvc files.

  python bin/compress.py --input=photo.png --output=photo.kvc --quality=30
  python bin/compress.py --input=photo.png --output=photo.kvc --target_bytes=50000
  python bin/compress.py --model=W --input=photos/ --output=compressed/
  python bin/compress.py --model=W --input=clip.y4m --frames=0:10 --output=compressed/
  python bin/compress.py --input=photos/ --output=compressed/ --shards=100 --cluster=local

--input is an image, a folder (with its subfolders) or a quoted glob, or names TFRecord files or a
data set of TFDS (tfds:NAME:SPLIT); for several images --output is a folder. Grey images stay grey;
16-bit and animated ones are refused. A .yuv or .y4m file of 4:2:0 frames, 8 or 10 bits, is coded
without conversion to RGB, by models of luma_chroma420 and cross_component; each frame becomes
OUTPUT/NAME_00000.kvc and so on, by its number. With --cluster the same command goes on where it was
ended (docs/cluster.md).
"""

from khuvcm_tf import batch_options, cluster, options, program

options.define_flags(batch_options.CompressOptions)
options.define_flags(cluster.ClusterOptions)


def main():
  given = options.from_flags(batch_options.CompressOptions)
  where = options.from_flags(cluster.ClusterOptions)
  from khuvcm_tf import batch_coding  # TensorFlow takes seconds to import

  with cluster.start(where) as executor:
    print(batch_coding.run_compress(given, executor))


if __name__ == "__main__":
  program.run(main)
