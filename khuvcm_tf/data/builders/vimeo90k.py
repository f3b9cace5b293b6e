"""Vimeo-90K as the TFDS data set `vimeo90k`: short runs of video frames of 448x256 pixels.

Reference:
  Xue, Chen, Wu, Wei, Freeman, "Video Enhancement with Task-Oriented Flow", International Journal of
  Computer Vision 127(8), 2019, http://toflow.csail.mit.edu/.
"""

from __future__ import annotations

import dataclasses

import tensorflow_datasets as tfds

from khuvcm_tf.data import DataError

_HOMEPAGE = "http://toflow.csail.mit.edu/"
_ARCHIVES = "http://data.csail.mit.edu/tofu/dataset/"
_DESCRIPTION = """\
Sequences of consecutive frames from videos of vimeo.com, PNG, 448x256 pixels. An example is one
sequence: `frames` are all of its frames in order; `image` is the middle one, for codecs of still
images, to which the others are almost the same image again.
"""
_CITATION = """\
@article{xue2019video,
  author = {Xue, Tianfan and Chen, Baian and Wu, Jiajun and Wei, Donglai and Freeman, William T.},
  title = {Video Enhancement with Task-Oriented Flow},
  journal = {International Journal of Computer Vision},
  volume = {127},
  number = {8},
  pages = {1106--1125},
  year = {2019},
}
"""


@dataclasses.dataclass
class Vimeo90kConfig(tfds.core.BuilderConfig):
  """One of the two sets.

  Attributes:
    frames: of a sequence.
    lists: what the names of its lists of sequences begin with.
  """

  frames: int = 3
  lists: str = "tri"


class Vimeo90k(tfds.core.GeneratorBasedBuilder):
  """Splits `train` and `test`; features `image` [H, W, 3], `frames` [N, H, W, 3], `name`."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Triplets and septuplets."}
  BUILDER_CONFIGS = [
    Vimeo90kConfig(
      name="triplet",
      description="3 frames: 51,313 sequences to train on, 3,782 to test.",
      frames=3,
      lists="tri",
    ),
    Vimeo90kConfig(
      name="septuplet",
      description="7 frames: 64,612 sequences to train on, 7,824 to test.",
      frames=7,
      lists="sep",
    ),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f"extract {_ARCHIVES}vimeo_triplet.zip (33 GB), or {_ARCHIVES}vimeo_septuplet.zip (82 GB) for "
    "vimeo90k/septuplet, so that vimeo_triplet/tri_trainlist.txt or "
    "vimeo_septuplet/sep_trainlist.txt lies there"
  )

  def _info(self) -> tfds.core.DatasetInfo:
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          "image": image,
          "frames": tfds.features.Sequence(image, length=self.builder_config.frames),
          "name": tfds.features.Text(),
        }
      ),
      homepage=_HOMEPAGE,
      citation=_CITATION,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    config = self.builder_config
    folder = dl_manager.manual_dir / f"vimeo_{config.name}"
    lists = {split: folder / f"{config.lists}_{split}list.txt" for split in ("train", "test")}
    for path in lists.values():
      if not path.exists():
        raise DataError(
          f"{path} is missing: download {_ARCHIVES}{folder.name}.zip and extract it into "
          f"{folder.parent}"
        )
    return {
      split: self._generate_examples(folder / "sequences", path) for split, path in lists.items()
    }

  def _generate_examples(self, folder, path):
    for name in path.read_text().split():
      frames = [folder / name / f"im{i + 1}.png" for i in range(self.builder_config.frames)]
      for frame in frames:
        if not frame.exists():
          raise DataError(
            f"{frame} is missing, though {path.name} names {name}: extract the archive again"
          )
      yield name, {"image": frames[len(frames) // 2], "frames": frames, "name": name}
