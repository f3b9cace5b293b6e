"""Our codecs are CompressAI's: equal stage by stage, within what its own settings differ by."""

from __future__ import annotations

import numpy as np
import pytest

from khuvcm_tf.conversion import compressai
from tests.parity import stages


@pytest.fixture(scope="module", params=compressai.CODECS)
def codec(request):
  return request.param, stages.converted(request.param)


@pytest.mark.parametrize("image", ["64x64", "192x128"])
def test_every_stage_equals_the_reference(codec, image):
  name, ours = codec
  references = stages.references(name)
  if image not in references:
    pytest.skip("KHUVCM_REFERENCE is not set")
  compared = stages.compare(ours, references[image])
  # All that the reference holds is compared.
  not_stages = {"x", "codec_y_hat", "codec_bits_y"}
  stored = {key for key in references[image] if key in stages._ALLOWED}
  assert {stage.name for stage in compared} == stored - not_stages
  for stage in compared:
    assert stage.difference <= stage.allowed, stage


def test_a_weight_changed_is_seen(codec):
  name, ours = codec
  reference = stages.references(name)["64x64"]
  kernel = ours.named_weights()[
    "analysis/conv0/kernel" if "cheng" not in name else "analysis/down0/conv0/kernel"
  ]
  before = kernel.numpy()
  try:
    # The shift by a pixel of which TensorFlow's own padding is guilty.
    kernel.assign(np.roll(before, 1, axis=0))
    assert any(stage.difference > stage.allowed for stage in stages.compare(ours, reference))
  finally:
    kernel.assign(before)
