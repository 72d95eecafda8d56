"""A study of all methods on Fashion-MNIST: short runs on many seeds, and an interval at every difference."""
