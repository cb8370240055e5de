"""Rows in, batches out: order, augmentation, lengths, packing, and tensors."""
