"""Chapter 13: Attention replaced after training, by today's methods."""
