"""The entropy models of Minnen et al. (2018), which several codecs take.

D. Minnen, J. Ballé, G. Toderici: Joint autoregressive and hierarchical priors for learned image
compression. NeurIPS 2018. https://arxiv.org/abs/1809.02736 (table 1).

Letters: N channels of z, M channels of y.
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.entropy import context, entropy_model, hyperprior

KINDS = ("hyperprior", "context", "mixture")


def create(kind: str, n: int, m: int, leaky_slope: float) -> entropy_model.EntropyModel:
  """Returns the entropy model that an argument of a codec names.

  Args:
    kind: "hyperprior", "context", or "mixture" (context with three Gaussians for each latent).
    n: channels of z.
    m: channels of y.
    leaky_slope: of the rectifiers.

  Raises:
    ValueError: there is no such kind.
  """
  if kind not in KINDS:
    raise ValueError(f"`entropy_model` is {kind!r}, expected one of {', '.join(KINDS)}")
  if kind == "hyperprior":
    return mean_scale_hyperprior(n, m, leaky_slope)
  return context_model(n, m, 3 if kind == "mixture" else 1, leaky_slope)


def mean_scale_hyperprior(
  n: int,
  m: int,
  leaky_slope: float,
  config: entropy_model.EntropyModelConfig = entropy_model.DEFAULT,
) -> hyperprior.Hyperprior:
  """z = h_a(y); mu, sigma = h_s(z_hat): the paper's table 1 without the context model."""
  return hyperprior.Hyperprior(
    h_a(n, leaky_slope),
    h_s(m, leaky_slope),
    latent_depth=m,
    hyper_depth=n,
    quantization_mode="mixed",
    config=config,
  )


def context_model(
  n: int,
  m: int,
  num_mixtures: int,
  leaky_slope: float,
  config: entropy_model.EntropyModelConfig = entropy_model.DEFAULT,
) -> context.ContextModel:
  """psi = h_s(z_hat); phi = masked 5x5 of y_hat; mu, sigma = three 1x1 layers of (phi, psi)."""
  return context.ContextModel(
    h_a(n, leaky_slope),
    h_s(m, leaky_slope),
    entropy_parameters(m, num_mixtures, leaky_slope),
    latent_depth=m,
    hyper_depth=n,
    num_mixtures=num_mixtures,
    quantization_mode="mixed",
    config=config,
  )


def h_a(n: int, leaky_slope: float) -> list[tf.keras.layers.Layer]:
  """The hyper-analysis: y [B, h, w, M] -> z [B, h/4, w/4, N]."""
  return [
    layers.conv(n, 3, name="conv0"),
    layers.Rectifier(leaky_slope, name="act0"),
    layers.conv_down(n, 5, 2, name="conv1"),
    layers.Rectifier(leaky_slope, name="act1"),
    layers.conv_down(n, 5, 2, name="conv2"),
  ]


def h_s(m: int, leaky_slope: float) -> list[tf.keras.layers.Layer]:
  """The hyper-synthesis: z_hat [B, h/4, w/4, N] -> [B, h, w, 2 M]."""
  return [
    layers.conv_up(m, 5, 2, name="conv0"),
    layers.Rectifier(leaky_slope, name="act0"),
    layers.conv_up(m * 3 // 2, 5, 2, name="conv1"),
    layers.Rectifier(leaky_slope, name="act1"),
    layers.conv(2 * m, 3, name="conv2"),
  ]


def entropy_parameters(
  m: int, num_mixtures: int, leaky_slope: float
) -> list[tf.keras.layers.Layer]:
  """The entropy parameters: (phi, psi) [B, h, w, 4 M] -> weights, means and scales of mixtures."""
  return [
    layers.conv(m * 10 // 3, 1, name="conv0"),
    layers.Rectifier(leaky_slope, name="act0"),
    layers.conv(m * 8 // 3, 1, name="conv1"),
    layers.Rectifier(leaky_slope, name="act1"),
    layers.conv((3 * num_mixtures if num_mixtures > 1 else 2) * m, 1, name="conv2"),
  ]
