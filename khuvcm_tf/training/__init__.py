"""Codecs as a task of `khuvcm_tf.runs`: loss, metrics, and the model's folder at the end."""
