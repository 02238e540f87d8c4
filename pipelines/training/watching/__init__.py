"""What is seen of a training from outside, and what it must not go on from."""
