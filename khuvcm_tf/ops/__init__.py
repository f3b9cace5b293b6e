"""Pure functions on tensors: padding, banding. No state, no layers."""
