"""Folders and shards of images: what lies on disk, which window of an image is shown, and the two backends that decode it."""
