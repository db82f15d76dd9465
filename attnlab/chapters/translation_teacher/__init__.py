"""Chapter 07: its pictures, its judges, its quiz."""
