"""Fixtures of tests that read checkpoints."""

from __future__ import annotations

import pytest

from khuvcm_tf.conversion import checkpoint


@pytest.fixture
def read(tmp_path):
  """A function: the bytes of a file -> its tensors."""

  def read(data: bytes, name: str = "weights.anything"):
    (tmp_path / name).write_bytes(data)
    return checkpoint.read(str(tmp_path / name))

  return read


@pytest.fixture
def refused(read):
  """A function: the bytes of a file -> the one line that refuses it."""

  def refused(data: bytes, match: str) -> str:
    with pytest.raises(checkpoint.CheckpointError, match=match) as caught:
      read(data)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and "weights.anything: " in line and len(line) < 1000
    return line

  return refused
