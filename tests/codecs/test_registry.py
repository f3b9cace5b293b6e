"""Codecs by name, and what a wrong name or argument says."""

from __future__ import annotations

import pytest
import tensorflow as tf

from khuvcm_tf import codecs, errors


class TestCreate:
  def test_of_unknown_name_is_refused_with_the_names_that_there_are(self):
    with pytest.raises(errors.Error, match=r"no codec is called 'jpeg'; there are .*mbt2018_mean"):
      codecs.create("jpeg")

  @pytest.mark.parametrize("arguments", [{"depth": 3}, {"activation": "relu"}])
  def test_with_unknown_argument_is_refused_with_what_was_given(self, arguments):
    (name,) = arguments
    with pytest.raises(errors.Error, match=rf"codec bmshj2018 was not built from .*'{name}'"):
      codecs.create("bmshj2018", num_filters=4, latent_depth=4, **arguments)

  @pytest.mark.parametrize(
    "dtype,compute", [("float64", "float64"), ("mixed_bfloat16", "bfloat16")]
  )
  def test_builds_transforms_of_the_wanted_type_and_leaves_the_policy(self, dtype, compute):
    before = tf.keras.mixed_precision.global_policy().name
    codec = codecs.create("mbt2018_mean", dtype, num_filters=4, latent_depth=4)
    assert codec.compute_dtype == compute
    assert codec.branches[0].g_a.layers[0].compute_dtype == compute
    # Rates are counted in float32 whatever the transforms' type.
    (decoded,), bits = codec(codec.planes(tf.zeros((1, 16, 16, 3), tf.uint8)), training=True)
    assert decoded.dtype == (tf.float64 if compute == "float64" else tf.float32)
    assert {value.dtype for value in bits.values()} == {tf.float32}
    assert tf.keras.mixed_precision.global_policy().name == before

  @pytest.mark.parametrize("name", codecs.names())
  def test_has_a_stride_of_64_and_two_substreams_a_branch_but_without_side_information(self, name):
    codec = codecs.create(name, num_filters=4)
    assert codec.stride == (16 if name == "bmshj2018_factorized" else 64)
    expected = {
      "cross_component": ("luma_z", "luma_y", "chroma_z", "chroma_y"),
      "bmshj2018_factorized": ("y",),
    }.get(name, ("z", "y"))
    assert codec.substreams == expected
