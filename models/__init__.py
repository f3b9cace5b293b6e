"""Shipped models, one folder each, installed as `khuvcm_tf.models`."""
