"""Muon: momentum whose update of a kernel is made orthogonal, so that all directions learn alike.

K. Jordan et al.: Muon: An optimizer for hidden layers in neural networks. 2024.
https://kellerjordan.github.io/posts/muon/. The factor of an update is that of J. Liu et al.: Muon
is scalable for LLM training. 2025. https://arxiv.org/abs/2502.16982.

  m = momentum m + g                        W: the kernel as a [k k C_in, C_out] matrix
  u = orthogonal(g + momentum m)
  W = W - learning rate * 0.2 sqrt(max(k k C_in, C_out)) u

Kernels of convolutions are updated so; all other weights (biases, GDN, tables, matrices) by Adam.
"""

from __future__ import annotations

import math

import tensorflow as tf

_MOMENTUM = 0.95
_SCALE = 0.2  # an update's root mean square, about that of Adam
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_LEAST_CHANNELS = 4


class Muon(tf.keras.optimizers.Adam):
  """Muon for kernels of convolutions, Adam for all other weights.

  Arguments are those of Adam; `beta_1`, `beta_2` and `epsilon` are of its weights.
  """

  def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
    if not is_kernel(variable):
      super().update_step(gradient, variable)
      return
    # Adam's first moment has the variable's shape and begins at 0, as momentum does.
    momentum = self._momentums[self._index_dict[self._var_key(variable)]]
    momentum.assign(_MOMENTUM * momentum + gradient)
    matrix = tf.reshape(gradient + _MOMENTUM * momentum, [-1, variable.shape[-1]])
    scale = _SCALE * math.sqrt(max(matrix.shape))
    update = tf.reshape(orthogonal(matrix), variable.shape)
    variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * scale * update)


def is_kernel(variable: tf.Variable) -> bool:
  """Returns whether a weight is the kernel of a convolution, with 4 channels at least."""
  return variable.shape.rank >= 3 and min(variable.shape[-2:]) >= _LEAST_CHANNELS


def orthogonal(matrix: tf.Tensor) -> tf.Tensor:
  """Returns a matrix of the same singular vectors, whose singular values are about 1 (0.7 to 1.2).

  Args:
    matrix: [rows, columns].
  """
  is_tall = matrix.shape[0] > matrix.shape[1]
  x = tf.transpose(matrix) if is_tall else matrix  # products are smallest so
  x = x / (tf.norm(x) + 1e-7)
  a, b, c = _NEWTON_SCHULZ
  for _ in range(_ITERATIONS):
    gram = tf.matmul(x, x, transpose_b=True)
    x = a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)
  return tf.transpose(x) if is_tall else x
