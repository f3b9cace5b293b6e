"""Packages `khuvcm_tf`, `detection`, and the shipped models as `khuvcm_tf.models`."""

from setuptools import find_packages, setup

REQUIRED = [
  # The last version that tensorflow-compression was released for. Brings Keras 2.14.
  "tensorflow==2.14.*",
  # Training writes its event files by it; TensorFlow asks for the same version.
  "tensorboard==2.14.*",
  # Range coder, SignalConv2D, GDN; its compiled ops fit exactly one minor version of TensorFlow.
  "tensorflow-compression==2.14.*",
  # Older releases do not read today's data set metadata.
  "tensorflow-datasets>=4.9.2",
  # tensorflow-datasets 4.9.10 imports it to prepare any data set, and does not ask for it.
  "importlib_resources>=5.0",
  # Later ones need protobuf 5, which TensorFlow 2.14 excludes; pip does not see the conflict.
  "tensorflow-metadata<1.18",
  # TensorBoard 2.14 imports pkg_resources, which setuptools 81 no longer has.
  "setuptools<81",
  # TensorFlow 2.14 is compiled against numpy 1; stated so that no other package brings 2.
  "numpy>=1.23.5,<2",
  # Under tensorflow-datasets. A folder of wheels does not say which Python a version is for, and
  # pip then searches for hours; these are the last versions for 3.9 and for 3.10.
  'etils<1.6; python_version < "3.10"',
  'etils<1.14; python_version < "3.11"',
  # Flags and logging of the programs.
  "absl-py>=1.4",
  # Reads and writes images; AVIF, one of the anchors, is built in since 11.3.
  "pillow>=11.3",
  # Video frames and resampling; headless needs no display, 4.12 needs numpy 2.
  "opencv-python-headless>=4.8,<4.12",
  # DCT of PSNR-HVS, PCHIP of BD-rate; tensorflow-compression holds it at 1.11.
  "scipy>=1.11",
  # Figures of rate-distortion curves.
  "matplotlib>=3.7",
  # Progress bars.
  "tqdm>=4.60",
  # COCO's average precision, and masks as run lengths. 1.7 is the last for Python 3.9; 2 might
  # count in another way, and numbers must stay comparable.
  "faster-coco-eval>=1.7,<2",
]

# TensorFlow's own `and-cuda` asks for a tensorrt that cannot be installed. These are the CUDA 11.8
# libraries that TensorFlow 2.14 was built with, to the digit: it loads them by their sonames.
GPU = [
  "nvidia-cublas-cu11==11.11.3.6",
  "nvidia-cuda-cupti-cu11==11.8.87",
  "nvidia-cuda-nvcc-cu11==11.8.89",
  "nvidia-cuda-runtime-cu11==11.8.89",
  "nvidia-cudnn-cu11==8.7.0.84",
  "nvidia-cufft-cu11==10.9.0.58",
  "nvidia-curand-cu11==10.3.0.86",
  "nvidia-cusolver-cu11==11.4.1.48",
  "nvidia-cusparse-cu11==11.7.5.86",
  "nvidia-nccl-cu11==2.16.5",
]

# Encoders that rate-distortion comparisons can run beside Pillow's; large, so asked for by name.
ANCHORS = [
  "pillow-heif>=1.1",  # HEIC by x265
  "imagecodecs>=2024.12.30",  # JPEG XL
  "imageio-ffmpeg>=0.6",  # an ffmpeg with x265 and, from Python 3.10 on, vvenc
]

# Many images on many machines.
CLUSTER = [
  "ray>=2.9",
  # Ray imports it where it is installed, as it is by tensorflow-datasets; 26 needs numpy 2, which
  # it does not say.
  "pyarrow<26",
]

# What a checkout needs beside the packages: tests, lint, and `make demo`.
DEV = [
  "pytest>=8.1",  # --import-mode=importlib as tests/ uses it
  "pytest-xdist>=3.5",  # make test runs in two processes
  "hypothesis>=6.100",  # properties
  "pycocotools>=2.0.8,<3",  # oracle of COCO's evaluation; the first for numpy 1 and 2
  "scikit-image>=0.22",  # oracle of SSIM; photos of make demo and of the data set shapes
  "dill>=0.3.6",  # tensorflow_datasets.testing imports it
  "psutil>=5.9",  # memory of processes under test
  "selenium>=4.11",  # the report in a browser, where chromium and chromedriver are installed
  "setuptools>=64",  # a test builds an editable install; venv on Python 3.9 brings 58
  "ruff==0.17.*",  # the formatter's output changes between minor versions
]

setup(
  name="khuvcm-tf",
  version="0.1.0",
  description="Learned image and feature compression in TensorFlow",
  license="Apache-2.0",
  python_requires=">=3.9,<3.12",  # the Pythons that TensorFlow 2.14 has wheels for
  packages=[*find_packages(include=["khuvcm_tf*", "detection*"]), "khuvcm_tf.models"],
  package_dir={"khuvcm_tf.models": "models"},
  package_data={
    "khuvcm_tf.models": ["**/*.json", "**/*.npz", "**/fingerprint"],
    "khuvcm_tf.evaluation": ["*.json"],
    "khuvcm_tf.results": ["page/*"],
  },
  install_requires=REQUIRED,
  extras_require={"gpu": GPU, "anchors": ANCHORS, "cluster": CLUSTER, "dev": DEV},
)
