"""Pure functions on tensors: padding, banding, colour. No state, no layers."""
