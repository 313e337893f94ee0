"""What moves bytes: the mirror, the copy, and the channel between the two hosts."""
