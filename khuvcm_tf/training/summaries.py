"""Validation images and latents as TensorBoard shows them."""

from __future__ import annotations

import math

import numpy as np

from khuvcm_tf.runs.summaries import SummaryWriter


def write_comparison(
  writer: SummaryWriter, step: int, name: str, original: np.ndarray, decoded: np.ndarray
):
  """Shows original | decoded | difference (times 4, around grey): [H, W, C] twice, 0..255."""
  original = original.astype(np.float32)
  decoded = np.clip(np.round(decoded), 0.0, 255.0)
  difference = np.clip(128.0 + 4.0 * (decoded - original), 0.0, 255.0)
  row = np.concatenate([original, decoded, difference], axis=1)
  writer.image(step, name, row.astype(np.uint8))


def write_latents(writer: SummaryWriter, step: int, name: str, y_hat: np.ndarray, bits: np.ndarray):
  """Shows the latents y_hat [h, w, M] of an image and their bits [h, w, M]."""
  bits_per_channel = bits.sum(axis=(0, 1))
  costliest = np.argsort(-bits_per_channel)[:16]
  writer.histogram(step, f"{name}/values", y_hat)
  writer.histogram(step, f"{name}/bits_per_channel", bits_per_channel)
  writer.image(step, f"{name}/costliest_channels", mosaic(y_hat[..., costliest]))
  writer.image(step, f"{name}/bits_per_position", mosaic(bits.sum(axis=-1, keepdims=True)))


def mosaic(channels: np.ndarray) -> np.ndarray:
  """Lays out channels [h, w, n], each scaled to 0..255, as one image, uint8 [?, ?, 1]."""
  low, high = channels.min(axis=(0, 1)), channels.max(axis=(0, 1))
  scaled = ((channels - low) / np.maximum(high - low, 1e-9) * 255).astype(np.uint8)
  columns = math.ceil(math.sqrt(scaled.shape[2]))
  rows = -(-scaled.shape[2] // columns)
  spare = rows * columns - scaled.shape[2]
  scaled = np.pad(scaled, ((1, 1), (1, 1), (0, spare)))
  height, width = scaled.shape[:2]
  grid = scaled.reshape(height, width, rows, columns).transpose(2, 0, 3, 1)
  return grid.reshape(rows * height, columns * width, 1)
