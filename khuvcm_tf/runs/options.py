"""Options of a run, whatever it trains. Nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses

from khuvcm_tf import options as options_lib
from khuvcm_tf.options import option


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """How a run trains; a task's options derive from it. The help of each field says what it is.

  Raises:
    options.OptionsError: a value is missing or out of range.
  """

  workdir: str = option(
    None, "Folder of the run; created if it does not exist.", required=True, path="output"
  )
  max_steps: int = option(1_000_000, "Number of steps of the run.", low=1)
  batch_size: int = option(8, "Examples in a step, over all devices and workers.", low=1)
  optimizer: str = option(
    "adam",
    "adam; muon: orthogonal updates of kernels, Adam for other weights, at like learning rates; "
    "sgd: gradient descent with momentum 0.9, at learning rates such as 0.01.",
    choices=("adam", "muon", "sgd"),
    fixed=True,
  )
  weight_decay: float = option(
    0.0, "Share of each weight, times the learning rate, that a step takes off; 0: none.", low=0
  )
  learning_rate: float = option(1e-4, "Learning rate after the warm-up.", above=0)
  learning_rate_schedule: str = option(
    "drops",
    "constant; cosine: falls to 1 % at the last step; drops: falls to a tenth after 80 % of the "
    "steps and to a hundredth after 95 %.",
    choices=("constant", "cosine", "drops"),
  )
  warmup_steps: int = option(0, "Steps in which the learning rate rises linearly.", low=0)
  clip_norm: float = option(
    1.0, "Gradients with a greater global norm are scaled down to it; 0 turns this off.", low=0
  )
  ema: float = option(
    0.0,
    "Momentum of a moving average of the weights, such as 0.999; the averaged weights are "
    "validated and kept. The nearer to 1, the more steps are averaged; 0 turns this off.",
    low=0,
    below=1,
  )
  on_nan: str = option(
    "stop",
    "What follows when the loss diverges: stop, or restore the last checkpoint and go on at half "
    "the learning rate.",
    choices=("stop", "restore"),
  )
  seed: int = option(0, "Seed of weights, order of the data, augmentation and noise.", low=0)
  strategy: str = option(
    "default",
    "default: one device; mirrored: all GPUs of this machine; multi_worker: the machines that "
    "TF_CONFIG names.",
    choices=("default", "mirrored", "multi_worker"),
  )
  mixed_precision: bool = option(
    False, "Compute in bfloat16 where the model allows it; weights stay in float32."
  )
  jit_compile: bool = option(
    False, "Compile steps with XLA. This is for GPUs: on a CPU steps take 2 to 3 times as long."
  )
  log_steps: int = option(100, "Steps between two entries of the log.", low=1)
  checkpoint_steps: int = option(
    1000, "Steps between two checkpoints; a validation precedes each.", low=1
  )
  profile: bool = option(False, "Trace steps 10 to 20 for TensorBoard's profiler.")

  def __post_init__(self):
    options_lib.check(self)
