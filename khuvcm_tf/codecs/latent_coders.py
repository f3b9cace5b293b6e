"""Minnen's latent coders, which several codecs take.

D. Minnen, J. Ballé, G. Toderici: Joint autoregressive and hierarchical priors for learned image
compression. NeurIPS 2018. https://arxiv.org/abs/1809.02736 (table 1).
"""

from __future__ import annotations

import tensorflow as tf

from khuvcm_tf import layers
from khuvcm_tf.entropy import context, hyperprior, latent_coder

KINDS = ("hyperprior", "context", "mixture")


def create(kind: str, n: int, m: int, leaky_slope: float) -> latent_coder.LatentCoder:
  """Returns the latent coder that an argument of a codec names.

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
    return mean_and_scale(n, m, leaky_slope)
  return joint(n, m, 3 if kind == "mixture" else 1, leaky_slope)


def mean_and_scale(
  n: int, m: int, leaky_slope: float, form: latent_coder.Form = latent_coder.OURS
) -> hyperprior.Hyperprior:
  """z = h_a(y); mu, sigma = h_s(z_hat): the paper's table 1 without the context model."""
  return hyperprior.Hyperprior(
    _hyper_analysis(n, leaky_slope),
    _hyper_synthesis(m, leaky_slope),
    latent_depth=m,
    hyper_depth=n,
    means=True,
    absolute=False,
    quantization_mode="mixed",
    form=form,
  )


def joint(
  n: int, m: int, num_mixtures: int, leaky_slope: float, form: latent_coder.Form = latent_coder.OURS
) -> context.ContextModel:
  """z = h_a(y); psi = h_s(z_hat); phi = masked 5x5 of y_hat; three 1x1 layers of (phi, psi)."""
  parameters = [
    layers.conv(m * 10 // 3, 1, name="conv0"),
    layers.Rectifier(leaky_slope, name="act0"),
    layers.conv(m * 8 // 3, 1, name="conv1"),
    layers.Rectifier(leaky_slope, name="act1"),
    layers.conv((3 * num_mixtures if num_mixtures > 1 else 2) * m, 1, name="conv2"),
  ]
  return context.ContextModel(
    _hyper_analysis(n, leaky_slope),
    _hyper_synthesis(m, leaky_slope),
    parameters,
    latent_depth=m,
    hyper_depth=n,
    hyper_features=2 * m,
    num_mixtures=num_mixtures,
    quantization_mode="mixed",
    form=form,
  )


def _hyper_analysis(n: int, leaky_slope: float) -> list[tf.keras.layers.Layer]:
  return [
    layers.conv(n, 3, name="conv0"),
    layers.Rectifier(leaky_slope, name="act0"),
    layers.conv_down(n, 5, 2, name="conv1"),
    layers.Rectifier(leaky_slope, name="act1"),
    layers.conv_down(n, 5, 2, name="conv2"),
  ]


def _hyper_synthesis(m: int, leaky_slope: float) -> list[tf.keras.layers.Layer]:
  return [
    layers.conv_up(m, 5, 2, name="conv0"),
    layers.Rectifier(leaky_slope, name="act0"),
    layers.conv_up(m * 3 // 2, 5, 2, name="conv1"),
    layers.Rectifier(leaky_slope, name="act1"),
    layers.conv(2 * m, 3, name="conv2"),
  ]
