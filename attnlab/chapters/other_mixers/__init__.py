"""Chapter 10: every other mixer in one frame, with its prices and what it reaches."""
