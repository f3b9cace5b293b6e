"""Anchors that are raw streams of one image, by the encoders inside ffmpeg.

Colour is converted here: BT.601 full range in floats, rounded to 10 bits (peak 1023, chroma about
512); 4:2:0 takes 2x2 means before rounding and interpolates bilinearly on the way back. In 4:4:4
that is lossless, for each of the 2^24 colours. Images are padded by repeating their last row and
column: to even sides for 4:2:0, which has no others, and to `_SMALLEST`.

ffmpeg comes with the package imageio-ffmpeg; the variable IMAGEIO_FFMPEG_EXE names another one.
Images go through pipes; nothing is left on disk. Of a damaged HEVC stream, ffmpeg shows what it
can; raw streams have no checksum.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import subprocess

import numpy as np
import tensorflow as tf

from khuvcm_tf.evaluation import metrics
from khuvcm_tf.evaluation.anchors.anchor import Anchor, AnchorError, RatePoint, optional_module
from khuvcm_tf.ops import color

TIME_LIMIT = 600  # seconds that ffmpeg may take for an image
_BITS = 10
_SMALLEST = 64  # x265 takes no side below its largest block
_ZERO = (0.0, color.CHROMA_ZERO, color.CHROMA_ZERO)


class _RawStream(Anchor):
  """One intra image, coded at a constant QP."""

  encoder: str  # ffmpeg's name of it
  library: str
  version_pattern: str  # in what ffmpeg prints
  scale, unit, limits = "QP", "qp", (0, 51)

  def __init__(self, name: str, subsampling: str, default_rate_points: tuple[int, ...]):
    chroma = ", chroma by 2x2 means and bilinearly back" * (subsampling == "4:2:0")
    conversion = (
      f"YCbCr {subsampling}, BT.601 full range, {_BITS} bits rounded, by this program{chroma}"
    )
    super().__init__(name, conversion, default_rate_points)
    self._subsampling = subsampling
    self._pixels = f"yuv{subsampling.replace(':', '')}p{_BITS}le"

  def missing(self) -> str | None:
    ffmpeg = _ffmpeg()
    if ffmpeg is None:
      return f"{self.name} needs imageio-ffmpeg, which is not installed; pip install imageio-ffmpeg"
    for kind, codec in (("encoder", self.encoder), ("decoder", self.suffix)):
      try:
        codecs = _codecs(ffmpeg, kind)
      except AnchorError as error:
        return f"{self.name}: {error}"
      if codec not in codecs:
        return (
          f"{self.name}: {ffmpeg} has no {kind} {codec}; pip install 'imageio-ffmpeg>=0.8' (Python "
          "3.10 or later), or name another ffmpeg in IMAGEIO_FFMPEG_EXE"
        )
    return None

  def version(self) -> str:
    self._check_installed()
    ffmpeg = _ffmpeg()
    found = re.search(r"ffmpeg version (\S+)", _run([ffmpeg, "-version"]).stdout.decode())
    by = f"ffmpeg {found[1] if found else '(unknown)'}"
    imageio = f"imageio-ffmpeg {importlib.metadata.version('imageio-ffmpeg')}"
    grey = np.full((_SMALLEST, _SMALLEST, 3), 128, np.uint8)
    printed = _run(self._encode_command(grey.shape, 51), self._samples(grey)).stderr.decode()
    found = re.search(self.version_pattern, printed)
    return f"{self.library} {found[1] if found else '(unknown)'} by {by} ({imageio})"

  def options(self, rate_point: RatePoint) -> str:
    return " ".join(self._arguments(rate_point))

  def conversion_psnr(self, rgb: np.ndarray) -> float:
    padded = _pad(rgb)
    back = self._rgb(self._samples(padded), *padded.shape[:2])
    return metrics.psnr(rgb, back[: rgb.shape[0], : rgb.shape[1]])

  def _arguments(self, rate_point: RatePoint) -> list[str]:
    """Arguments of ffmpeg that choose and steer the encoder."""
    raise NotImplementedError

  def _encode_command(self, shape: tuple[int, ...], rate_point: RatePoint) -> list[str]:
    source = ["-f", "rawvideo", "-pix_fmt", self._pixels, "-s", f"{shape[1]}x{shape[0]}"]
    coder = ["-frames:v", "1", *self._arguments(rate_point), "-f", self.suffix]
    # One key image: without -g 1, headers describe images to come, 100 bytes in VVC.
    return [_ffmpeg(), "-hide_banner", *source, "-i", "pipe:0", *coder, "-g", "1", "pipe:1"]

  def _encode(self, image: np.ndarray, rate_point: RatePoint) -> bytes:
    padded = _pad(image)
    command = self._encode_command(padded.shape, rate_point)
    return self._output(command, self._samples(padded), "encodes")

  def _decode(self, data: bytes, height: int, width: int) -> np.ndarray:
    padded = _padded_sides(height, width)
    return self._rgb(self._decoded_samples(data, *padded), *padded)[:height, :width]

  def _decoded_samples(self, data: bytes, height: int, width: int) -> bytes:
    """Returns the planes of a stream of this padded size, in words of 16 bits."""
    source = ["-threads", "1", "-f", self.suffix, "-i", "pipe:0"]
    planes = ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", self._pixels, "pipe:1"]
    samples = self._output([_ffmpeg(), "-hide_banner", *source, *planes], data, "decodes")
    expected = height * width * (6 if self._subsampling == "4:4:4" else 3)
    if len(samples) != expected:
      raise AnchorError(
        f"{self.name}: decoded {len(samples)} bytes of samples; expected {expected} for "
        f"{width}x{height}; give the size of the image that was coded"
      )
    return samples

  def encode_luma(self, y: np.ndarray, rate_point: RatePoint) -> bytes:
    """Codes one plane of 10 bits, uint16 [H, W], as luma, with chroma that is the same throughout.

    Raises:
      AnchorError: the encoder is missing or fails.
    """
    self._check_installed()
    height, width = y.shape
    padded = np.pad(
      y, [(0, new - old) for new, old in zip(_padded_sides(height, width), y.shape)], "edge"
    )
    of_chroma = padded.size // 2 if self._subsampling == "4:2:0" else 2 * padded.size
    chroma = np.full(of_chroma, 1 << (_BITS - 1), "<u2")
    samples = padded.astype("<u2").tobytes() + chroma.tobytes()
    return self._output(self._encode_command(padded.shape, rate_point), samples, "encodes")

  def decode_luma(self, data: bytes, height: int, width: int) -> np.ndarray:
    """Undoes `encode_luma`, but for what is lost.

    Raises:
      AnchorError: the decoder is missing or fails.
    """
    self._check_installed()
    padded = _padded_sides(height, width)
    samples = self._decoded_samples(data, *padded)
    y = np.frombuffer(samples, "<u2", padded[0] * padded[1])
    return y.reshape(padded)[:height, :width]

  def _output(self, command: list[str], data: bytes, does: str) -> bytes:
    done = _run(command, data)
    if done.returncode or not done.stdout:
      lines = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
      raise AnchorError(
        f"{self.name}: the ffmpeg that {does} ended with {done.returncode} and "
        f"{len(done.stdout)} bytes, expected 0 and some; it printed: {lines[-1]}"
      )
    return done.stdout

  def _samples(self, rgb: np.ndarray) -> bytes:
    """Converts uint8 [H, W, 3], sides even, to planes of 16-bit words."""
    ycbcr = color.rgb_to_ycbcr(rgb[np.newaxis].astype(np.float32))
    ycbcr = color.to_depth(ycbcr, _BITS, zero=_ZERO)
    if self._subsampling == "4:2:0":
      planes = color.to_420(ycbcr)
    else:
      planes = [ycbcr]
    words = [np.moveaxis(color.levels(plane, _BITS).numpy()[0], -1, 0) for plane in planes]
    return b"".join(word.astype("<u2").tobytes() for word in words)

  def _rgb(self, samples: bytes, height: int, width: int) -> np.ndarray:
    """Undoes `_samples`."""
    half = 2 if self._subsampling == "4:2:0" else 1
    words = np.frombuffer(samples, "<u2").astype(np.float32)
    y, uv = np.split(words, [height * width])
    y = y.reshape(1, height, width, 1)
    uv = np.moveaxis(uv.reshape(1, 2, height // half, width // half), 1, -1)
    y = color.from_depth(y, _BITS)
    uv = color.from_depth(uv, _BITS, zero=color.CHROMA_ZERO)
    ycbcr = color.to_444(y, uv) if half == 2 else tf.concat([y, uv], axis=-1)
    return color.levels(color.ycbcr_to_rgb(ycbcr))[0].numpy()


class Hevc(_RawStream):
  """HEVC by x265, preset placebo, for PSNR alone, on one thread.

  `info=0` leaves out 2.3 kB of text about the settings, `ipratio=1` a shift of the QP of an I
  image by 3, `wpp=0` entry points for threads, 0.2 %.
  """

  encoder, library, suffix = "libx265", "x265", "hevc"
  version_pattern = r"HEVC encoder version (\S+)"

  def _arguments(self, rate_point: RatePoint) -> list[str]:
    psnr = "aq-mode=0:psy-rd=0:psy-rdoq=0"
    parameters = f"qp={rate_point}:ipratio=1:{psnr}:info=0:wpp=0:pools=none:frame-threads=1"
    coder = ["-c:v", self.encoder, "-preset", "placebo", "-tune", "psnr"]
    return [*coder, "-x265-params", parameters]


class Vvc(_RawStream):
  """VVC by vvenc, preset medium, for PSNR alone, on one thread; it codes no 4:4:4.

  `-qpa 0` leaves out a QP by how well errors are seen, `IntraQPOffset=0` a shift of the QP of an I
  image by -3.
  """

  encoder, library, suffix = "libvvenc", "vvenc", "vvc"
  version_pattern = r"libvvenc version: (\S+)"

  def _arguments(self, rate_point: RatePoint) -> list[str]:
    coder = ["-c:v", self.encoder, "-preset", "medium", "-qp", str(rate_point), "-qpa", "0"]
    return [*coder, "-vvenc-params", "IntraQPOffset=0", "-threads", "1"]


def _ffmpeg() -> str | None:
  """Returns the path of the ffmpeg to run; None where there is none."""
  imageio = optional_module("imageio_ffmpeg")
  try:
    return imageio and imageio.get_ffmpeg_exe()
  except RuntimeError:  # there is no binary for this system
    return None


@functools.cache
def _codecs(ffmpeg: str, kind: str) -> frozenset[str]:
  """Returns the names of the encoders or decoders of an ffmpeg."""
  listed = _run([ffmpeg, "-hide_banner", f"-{kind}s"]).stdout.decode()
  return frozenset(re.findall(r"^ [A-Z.]{6} (\S+)", listed, re.MULTILINE))


def _run(command: list[str], data: bytes = b"") -> subprocess.CompletedProcess:
  try:
    return subprocess.run(command, input=data, capture_output=True, timeout=TIME_LIMIT)
  except subprocess.TimeoutExpired as error:
    raise AnchorError(
      f"ffmpeg took more than {TIME_LIMIT} s, expected less; leave out such large images or this "
      f"anchor; it was run as: {' '.join(command)}"
    ) from error
  except OSError as error:
    raise AnchorError(
      f"{command[0]}: cannot be run: {error.strerror}; expected an ffmpeg, by imageio-ffmpeg or "
      "IMAGEIO_FFMPEG_EXE"
    ) from error


def _padded_sides(height: int, width: int) -> tuple[int, int]:
  return tuple(max(_SMALLEST, side + side % 2) for side in (height, width))


def _pad(rgb: np.ndarray) -> np.ndarray:
  height, width = _padded_sides(*rgb.shape[:2])
  return np.pad(rgb, [(0, height - rgb.shape[0]), (0, width - rgb.shape[1]), (0, 0)], "edge")
